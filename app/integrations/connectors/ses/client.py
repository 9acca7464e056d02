"""The one thing to ask Amazon for: that a subscription of the topic is confirmed."""

from app.integrations.errors import Rejected
from app.integrations.http import ConnectorHttp
from app.integrations.verification.sns import is_sns_url


class SnsClient:
    """Raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp) -> None:
        self._http = http

    async def confirm(self, subscribe_url: str, topic: str) -> None:
        """Visits the URL that stands in a verified SubscriptionConfirmation of `topic`."""
        if not is_sns_url(subscribe_url, topic):
            raise Rejected("SubscribeURL does not lead to Amazon SNS in the topic's region.")
        # The token in it is as good as the subscription.
        await self._http.bind(redact=[subscribe_url]).get(subscribe_url)
