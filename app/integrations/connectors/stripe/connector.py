"""Stripe: declarations, inbound events, action handlers."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.errors import AuthenticationFailed
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, Limits, SecretSpec
from app.integrations.urls import webhook_token
from app.integrations.verification import Body, HeaderValue, Hmac, Text, Timestamp

from . import schemas
from .client import StripeClient

_NAMED: dict[str, tuple[type[schemas.EventPayload], str]] = {
    "payment_intent.succeeded": (schemas.PaymentIntentPayload, "A payment succeeded"),
    "payment_intent.payment_failed": (schemas.PaymentIntentPayload, "An attempt to pay failed"),
    "charge.refunded": (schemas.ChargePayload, "A charge was refunded, in full or in part"),
    "checkout.session.completed": (schemas.CheckoutSessionPayload, "A checkout was completed"),
    "customer.created": (schemas.CustomerPayload, "A customer was created"),
    "customer.updated": (schemas.CustomerPayload, "A customer was changed"),
    "invoice.paid": (schemas.InvoicePayload, "An invoice was paid, or marked as paid"),
    "invoice.payment_failed": (schemas.InvoicePayload, "An attempt to pay an invoice failed"),
    "customer.subscription.created": (schemas.SubscriptionPayload, "A subscription was created"),
    "customer.subscription.updated": (schemas.SubscriptionPayload, "A subscription was changed"),
    "customer.subscription.deleted": (schemas.SubscriptionPayload, "A subscription ended"),
}
"""Stripe's types that have an event of their own: what its payload is, and what it says."""


def _event_name(kind: str) -> str:
    """`customer.subscription.created` is `stripe.customer_subscription.created`."""
    noun, _, verb = kind.rpartition(".")
    return f"stripe.{noun.replace('.', '_')}.{verb}"


class StripeConnector(BaseIntegration):
    """An account. Webhooks come from an endpoint that is set up by hand, because only then is its signing
    secret shown; a repeated action is recognised by its Idempotency-Key."""

    name = "Stripe"
    key = "stripe"
    secrets = [
        SecretSpec(name="api_key", description="Secret or restricted API key: sk_... or rk_..."),
        SecretSpec(
            name="signing_secret",
            description="The webhook endpoint's signing secret: whsec_...; needed for webhooks only",
            required=False,
        ),
    ]
    settings_model = schemas.StripeSettings
    verification = Hmac(
        header="Stripe-Signature",
        secret="signing_secret",  # noqa: S106 - a name
        prefix="v1=",
        separator=",",
        signed=(HeaderValue("Stripe-Signature", prefix="t=", separator=","), Text("."), Body()),
        # Every delivery attempt is signed anew, so retries do not come too late.
        timestamp=Timestamp("Stripe-Signature", tolerance=300, prefix="t=", separator=","),
    )
    events = [
        *(
            EventSpec(name=_event_name(kind), description=says, model=model, unique_id=True)
            for kind, (model, says) in _NAMED.items()
        ),
        EventSpec(
            name="stripe.event.received",
            description="An event of any other type, as Stripe sent it; thin events too",
            model=schemas.EventPayload,
            unique_id=True,
        ),
    ]
    # docs.stripe.com/rate-limits: 25 a second in a sandbox and at one resource; 100 in all when live.
    limits = Limits(rate=25)
    actions = [
        ActionSpec(
            name="create_refund",
            description="Refund a payment, in full or in part",
            model=schemas.CreateRefund,
            handler="create_refund",
            effect="idempotent",
            result=schemas.Refund,
            destructive=True,
        ),
        ActionSpec(
            name="create_customer",
            description="Create a customer",
            model=schemas.CreateCustomer,
            handler="create_customer",
            effect="idempotent",
            result=schemas.Customer,
        ),
        ActionSpec(
            name="update_customer",
            description="Change a customer; fields that are left out stay as they are",
            model=schemas.UpdateCustomer,
            handler="update_customer",
            effect="idempotent",
            result=schemas.Customer,
        ),
        ActionSpec(
            name="retrieve_customer",
            description="Ask for a customer",
            model=schemas.RetrieveCustomer,
            handler="retrieve_customer",
            effect="idempotent",
            result=schemas.Customer,
            reads=True,
        ),
        ActionSpec(
            name="create_payment_link",
            description="Create a link to a page on which prices can be paid",
            model=schemas.CreatePaymentLink,
            handler="create_payment_link",
            effect="idempotent",
            result=schemas.PaymentLink,
        ),
    ]

    def __init__(self, api_key: str, settings: schemas.StripeSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = StripeClient(http, api_key, settings)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one Stripe event. Raises InvalidBody (invalid_event, invalid_object)."""
        envelope = validated(schemas.StripeEvent, payload, "event")
        data, related = envelope.data or schemas.EventData(), envelope.related_object
        head = {
            "event_id": envelope.id,
            "type": envelope.type,
            "created": envelope.created,
            "livemode": envelope.livemode,
            "api_version": envelope.api_version,
            "account": envelope.account or envelope.context,
            "object_id": related.id if related else data.text("id"),
            "object_type": related.type if related else data.text("object"),
            "previous_attributes": data.previous_attributes,
            "raw": payload,
        }
        if envelope.type not in _NAMED:
            content = schemas.EventPayload(**head)
            return Event(type="stripe.event.received", external_id=envelope.id, payload=content.model_dump())
        model, _ = _NAMED[envelope.type]
        deeper = validated(schemas.StripeObject, data.object, "object").derived()
        content = validated(model, {**data.object, **deeper, **head}, "object")
        return Event(type=_event_name(envelope.type), external_id=envelope.id, payload=content.model_dump())

    async def check(self) -> None:
        try:
            await self.client.retrieve_balance()
        except AuthenticationFailed as error:
            # 403: a restricted key that may not see the balance is a good key all the same.
            if error.status != 403:
                raise

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        # An endpoint keeps its secret when its URL changes; that of a new one would be shown to us only,
        # and a connector cannot store secrets.
        if self.settings.webhook_endpoint_id:
            await self.client.update_webhook_endpoint(self.settings.webhook_endpoint_id, url)

    async def unregister_webhook(self, urls: Sequence[str] = ()) -> None:
        # Only if it is still ours: somebody may have given the endpoint another use since.
        endpoint = self.settings.webhook_endpoint_id
        if endpoint and webhook_token(await self.client.webhook_endpoint_url(endpoint)) in map(
            webhook_token, urls
        ):
            await self.client.disable_webhook_endpoint(endpoint)

    # Actions.

    async def create_refund(self, data: schemas.CreateRefund) -> dict[str, Any]:
        return _json(await self.client.post("refunds", _json(data), schemas.Refund))

    async def create_customer(self, data: schemas.CreateCustomer) -> dict[str, Any]:
        return _json(await self.client.post("customers", _json(data), schemas.Customer))

    async def update_customer(self, data: schemas.UpdateCustomer) -> dict[str, Any]:
        params = _json(data)
        return _json(await self.client.post_to("customers", params.pop("customer"), params, schemas.Customer))

    async def retrieve_customer(self, data: schemas.RetrieveCustomer) -> dict[str, Any]:
        return _json(await self.client.get_from("customers", data.customer, schemas.Customer))

    async def create_payment_link(self, data: schemas.CreatePaymentLink) -> dict[str, Any]:
        return _json(await self.client.post("payment_links", _json(data), schemas.PaymentLink))


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)
