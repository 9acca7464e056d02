"""Where in somebody's code an error came from: said without the error's own words, which may quote values."""

CONNECTORS = "app.integrations.connectors."
_NOT_THEIRS = ("app.modules.", "app.infra.", "app.integrations.base", "asyncio.", "concurrent.", "threading")


def place_of(error: BaseException) -> str:
    """`module:line in function` of the innermost frame in a connector, or else in no code of the platform."""
    trace = error.__traceback__
    place = theirs = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "?")
        here = f"{module}:{trace.tb_lineno} in {trace.tb_frame.f_code.co_name}"
        if module.startswith(CONNECTORS):
            theirs = here
        if not module.startswith(_NOT_THEIRS):
            place = here
        trace = trace.tb_next
    return theirs or place or "no line"


def kind_and_place(error: BaseException) -> str:
    """`KeyError: 'starts_at' (module:line in function)`; the key only if it is written in the code that
    looked it up, because only then is it no value."""
    name = type(error).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if isinstance(error, KeyError) and error.args and trace is not None:
        key = error.args[0]
        if isinstance(key, str) and key in trace.tb_frame.f_code.co_consts:
            name = f"KeyError: '{key}'"
    return f"{name} ({place_of(error)})"
