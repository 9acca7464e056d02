"""What comes in from Stripe, and what each action takes.

Names and units are those of the API (https://docs.stripe.com/api): amounts are in the currency's smallest
unit (cents), times are Unix seconds. What an object holds depends on the API version of the endpoint or the
account; what is not there is null.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl


class StripeSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.stripe.com", description="Address of the API: Stripe's, or a stand-in"
    )
    api_version: str | None = Field(
        default=None,
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z_]+)?$",
        description="Stripe-Version of the calls; the account's own if not set",
    )
    stripe_account: str | None = Field(
        default=None,
        pattern=r"^acct_[0-9A-Za-z]+$",
        description="Connect only: the connected account that the calls are made for",
    )
    webhook_endpoint_id: str | None = Field(
        default=None,
        pattern=r"^we_[0-9A-Za-z]+$",
        description="A webhook endpoint made by hand whose URL the platform keeps up to date",
    )


# What comes in: only what the events are made of; everything else stays in the original.


def _id_of(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else value


Id = Annotated[str | None, BeforeValidator(_id_of)]
"""The id of another object, which may be expanded."""


class EventData(BaseModel):
    """What the event is about, as it was when the event happened."""

    object: dict[str, Any] = {}
    previous_attributes: dict[str, Any] | None = None

    def text(self, field: str) -> str | None:
        """A field of the object, whatever the object is, if it is there and a text."""
        value = self.object.get(field)
        return value if isinstance(value, str) else None


class RelatedObject(BaseModel):
    """What a thin event is about: it has to be asked for."""

    id: str | None = None
    type: str | None = None


class StripeEvent(BaseModel):
    """An Event object, or a thin event of API v2."""

    id: ProviderId
    type: str
    created: int | str
    livemode: bool = False
    api_version: str | None = None
    account: str | None = None
    context: str | None = None
    data: EventData | None = None
    related_object: RelatedObject | None = None


class PaymentError(BaseModel):
    """Why a payment failed."""

    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class CustomerDetails(BaseModel):
    """Who paid at a checkout."""

    email: str | None = None


class SubscriptionDetails(BaseModel):
    """The subscription that an invoice is for."""

    subscription: Id = None


class InvoiceParent(BaseModel):
    """What an invoice was made for, since API version 2025-03-31."""

    subscription_details: SubscriptionDetails | None = None


class SubscriptionItem(BaseModel):
    """One price of a subscription."""

    price: Id = None
    current_period_end: int | None = None


class SubscriptionItems(BaseModel):
    """The prices of a subscription."""

    data: list[SubscriptionItem] = []


class StripeObject(BaseModel):
    """An object of one of the named events: what of it lies deeper than its own fields."""

    id: str
    object: str
    last_payment_error: PaymentError | None = None
    customer_details: CustomerDetails | None = None
    customer_email: str | None = None
    subscription: Id = None
    parent: InvoiceParent | None = None
    items: SubscriptionItems | None = None
    current_period_end: int | None = None

    def derived(self) -> dict[str, Any]:
        error = self.last_payment_error or PaymentError()
        details = self.customer_details or CustomerDetails()
        parent = (self.parent or InvoiceParent()).subscription_details or SubscriptionDetails()
        items = (self.items or SubscriptionItems()).data
        ends = [item.current_period_end for item in items if item.current_period_end is not None]
        return {
            "error_code": error.decline_code or error.code,
            "error_message": error.message,
            "customer_email": details.email or self.customer_email,
            "subscription": self.subscription or parent.subscription,
            "prices": [item.price for item in items if item.price],
            "current_period_end": self.current_period_end or (max(ends) if ends else None),
        }


# Event payloads.


class EventPayload(BaseModel):
    """What every event has."""

    event_id: str = Field(description="The event's id, evt_...")
    type: str = Field(description="Stripe's type of the event, such as invoice.paid")
    created: int | str = Field(description="When it happened: Unix seconds; RFC 3339 in thin events")
    livemode: bool = Field(description="Whether it is about real money")
    api_version: str | None = Field(description="The API version that the object is written in")
    account: str | None = Field(description="Connect: the connected account that it happened in")
    object_id: str | None = Field(description="The id of the object that it is about")
    object_type: str | None = Field(description="What the object is, such as invoice")
    previous_attributes: dict[str, Any] | None = Field(
        description="In *.updated: the changed fields and their values before"
    )
    raw: dict[str, Any] = Field(description="The event as Stripe sent it; the object is in data.object")


Metadata = Annotated[dict[str, str], BeforeValidator(lambda value: value or {})]


class PaymentIntentPayload(EventPayload):
    """A PaymentIntent."""

    amount: int | None = Field(default=None, description="Amount to be paid")
    amount_received: int | None = Field(default=None, description="Amount that was paid")
    currency: str | None = Field(default=None, description="Three-letter ISO code, lower case")
    status: str | None = Field(default=None, description="Such as succeeded, requires_payment_method")
    customer: Id = Field(default=None, description="The customer's id, cus_...")
    latest_charge: Id = Field(default=None, description="The last charge's id, ch_...")
    receipt_email: str | None = Field(default=None, description="Where the receipt goes")
    description: str | None = Field(default=None, description="The payment's description")
    metadata: Metadata = Field(default={}, description="Your own facts")
    error_code: str | None = Field(default=None, description="Why the last attempt failed: a code")
    error_message: str | None = Field(default=None, description="The same in words")


class ChargePayload(EventPayload):
    """A Charge."""

    amount: int | None = Field(default=None, description="Amount that was charged")
    amount_refunded: int | None = Field(default=None, description="Amount refunded so far, in all refunds")
    refunded: bool | None = Field(default=None, description="Whether it is refunded in full")
    currency: str | None = Field(default=None, description="Three-letter ISO code, lower case")
    customer: Id = Field(default=None, description="The customer's id, cus_...")
    payment_intent: Id = Field(default=None, description="The payment's id, pi_...")
    invoice: Id = Field(default=None, description="The invoice's id, in_...")
    metadata: Metadata = Field(default={}, description="Your own facts")


class CheckoutSessionPayload(EventPayload):
    """A Checkout Session."""

    mode: str | None = Field(default=None, description="payment, setup or subscription")
    status: str | None = Field(default=None, description="open, complete or expired")
    payment_status: str | None = Field(default=None, description="paid, unpaid or no_payment_required")
    amount_total: int | None = Field(default=None, description="Amount with discounts and taxes")
    currency: str | None = Field(default=None, description="Three-letter ISO code, lower case")
    client_reference_id: str | None = Field(default=None, description="Your own reference, such as a cart")
    customer: Id = Field(default=None, description="The customer's id, cus_...")
    customer_email: str | None = Field(default=None, description="Email address given at the checkout")
    payment_intent: Id = Field(default=None, description="The payment's id, pi_...")
    subscription: Id = Field(default=None, description="The subscription's id, sub_...")
    invoice: Id = Field(default=None, description="The invoice's id, in_...")
    payment_link: Id = Field(default=None, description="The payment link's id, plink_...")
    metadata: Metadata = Field(default={}, description="Your own facts")


class CustomerPayload(EventPayload):
    """A Customer."""

    email: str | None = Field(default=None, description="Email address")
    name: str | None = Field(default=None, description="Full name, or that of the business")
    phone: str | None = Field(default=None, description="Phone number")
    description: str | None = Field(default=None, description="The customer's description")
    metadata: Metadata = Field(default={}, description="Your own facts")


class InvoicePayload(EventPayload):
    """An Invoice."""

    number: str | None = Field(default=None, description="The number that the customer sees")
    status: str | None = Field(default=None, description="draft, open, paid, uncollectible or void")
    amount_due: int | None = Field(default=None, description="Amount to be paid")
    amount_paid: int | None = Field(default=None, description="Amount that was paid")
    amount_remaining: int | None = Field(default=None, description="Amount that is still to be paid")
    currency: str | None = Field(default=None, description="Three-letter ISO code, lower case")
    customer: Id = Field(default=None, description="The customer's id, cus_...")
    customer_email: str | None = Field(default=None, description="The customer's email address")
    subscription: Id = Field(default=None, description="The subscription's id, sub_...")
    billing_reason: str | None = Field(default=None, description="Such as subscription_cycle, manual")
    attempt_count: int | None = Field(default=None, description="How often it was tried to collect it")
    next_payment_attempt: int | None = Field(default=None, description="When it will be tried again")
    hosted_invoice_url: str | None = Field(default=None, description="Page on which it can be paid")
    metadata: Metadata = Field(default={}, description="Your own facts")


class SubscriptionPayload(EventPayload):
    """A Subscription."""

    status: str | None = Field(default=None, description="Such as active, trialing, past_due, canceled")
    customer: Id = Field(default=None, description="The customer's id, cus_...")
    prices: list[str] = Field(default=[], description="The ids of its prices, price_...")
    current_period_end: int | None = Field(default=None, description="Until when it is paid")
    cancel_at_period_end: bool | None = Field(default=None, description="Whether it ends then")
    canceled_at: int | None = Field(default=None, description="When it was cancelled")
    ended_at: int | None = Field(default=None, description="When it ended")
    trial_end: int | None = Field(default=None, description="When its trial ends")
    metadata: Metadata = Field(default={}, description="Your own facts")


# What actions take.


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


_METADATA = "Your own facts: up to 50 names with texts; an empty text takes a name away"


class Address(_Request):
    """A postal address."""

    line1: str | None = Field(default=None, description="Street, PO box or company")
    line2: str | None = Field(default=None, description="Apartment, suite, unit or building")
    city: str | None = Field(default=None, description="City, district, suburb, town or village")
    state: str | None = Field(default=None, description="State, county, province or region")
    postal_code: str | None = Field(default=None, description="ZIP or postal code")
    country: str | None = Field(default=None, description="Two-letter ISO 3166-1 code")


class CreateRefund(_Request):
    """POST /v1/refunds."""

    payment_intent: str | None = Field(default=None, description="The payment to refund, pi_...")
    charge: str | None = Field(default=None, description="The charge to refund, ch_..., instead")
    amount: int | None = Field(
        default=None, ge=1, description="How much, in the smallest unit; all that is left if not set"
    )
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = Field(
        default=None, description="Why; fraudulent adds card and email address to your block lists"
    )
    instructions_email: str | None = Field(
        default=None, description="Where to ask for bank details, for ways of payment that need them"
    )
    refund_application_fee: bool | None = Field(
        default=None, description="Connect: give the application fee back, too"
    )
    reverse_transfer: bool | None = Field(default=None, description="Connect: take the transfer back, too")
    metadata: dict[str, str] | None = Field(default=None, description=_METADATA)

    @model_validator(mode="after")
    def _one_payment(self) -> "CreateRefund":
        if (self.payment_intent is None) == (self.charge is None):
            raise ValueError("give either payment_intent or charge")
        return self


class _CustomerFields(_Request):
    email: str | None = Field(default=None, description="Email address")
    name: str | None = Field(default=None, description="Full name, or that of the business")
    phone: str | None = Field(default=None, description="Phone number")
    description: str | None = Field(default=None, description="A text that is shown in the dashboard")
    address: Address | None = Field(default=None, description="Postal address")
    preferred_locales: list[str] | None = Field(
        default=None, description="Languages of emails and invoices, best first, such as de"
    )
    invoice_prefix: str | None = Field(default=None, description="Begins the numbers of the invoices")
    metadata: dict[str, str] | None = Field(default=None, description=_METADATA)


class CreateCustomer(_CustomerFields):
    """POST /v1/customers."""

    payment_method: str | None = Field(default=None, description="A payment method to attach, pm_...")


class UpdateCustomer(_CustomerFields):
    """POST /v1/customers/:id. An empty text takes a value away."""

    customer: str = Field(min_length=1, description="The customer to change, cus_...")


class RetrieveCustomer(_Request):
    """GET /v1/customers/:id."""

    customer: str = Field(min_length=1, description="The customer to ask for, cus_...")


class LineItem(_Request):
    """A price to be paid."""

    price: str = Field(description="The price's id, price_...")
    quantity: int = Field(default=1, ge=1, description="How many")


class Redirect(_Request):
    """Where somebody goes who has paid."""

    url: str = Field(description="An https URL; {CHECKOUT_SESSION_ID} in it is replaced")


class HostedConfirmation(_Request):
    """What somebody sees who has paid."""

    custom_message: str | None = Field(default=None, description="Text on Stripe's confirmation page")


class AfterCompletion(_Request):
    """What happens after the payment."""

    type: Literal["hosted_confirmation", "redirect"] = Field(description="Which of the two")
    redirect: Redirect | None = Field(default=None, description="For type redirect")
    hosted_confirmation: HostedConfirmation | None = Field(
        default=None, description="For type hosted_confirmation"
    )


class CreatePaymentLink(_Request):
    """POST /v1/payment_links."""

    line_items: list[LineItem] = Field(min_length=1, description="What is to be paid; up to 20")
    after_completion: AfterCompletion | None = Field(default=None, description="What happens after that")
    allow_promotion_codes: bool | None = Field(default=None, description="Whether codes can be entered")
    metadata: dict[str, str] | None = Field(
        default=None, description="Your own facts, which the checkout sessions get, too"
    )


# What actions give.


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The object's id")
    object: str = Field(description="What the object is")


class Refund(_Answer):
    """A Refund, with all its other fields."""

    amount: int | None = Field(default=None, description="How much")
    currency: str | None = Field(default=None, description="Three-letter ISO code, lower case")
    status: str | None = Field(
        default=None, description="pending, requires_action, succeeded, failed or canceled"
    )
    payment_intent: Any = Field(default=None, description="The payment's id")
    charge: Any = Field(default=None, description="The charge's id")


class Customer(_Answer):
    """A Customer, with all its other fields; of a deleted one only the id is left."""

    email: str | None = Field(default=None, description="Email address")
    name: str | None = Field(default=None, description="Full name, or that of the business")
    deleted: bool = Field(default=False, description="Whether it was deleted")


class PaymentLink(_Answer):
    """A PaymentLink, with all its other fields."""

    url: str | None = Field(default=None, description="The address to give to customers")
    active: bool | None = Field(default=None, description="Whether it can be used")
