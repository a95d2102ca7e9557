"""The Hugging Face hub, from which other libraries fetch models: asked once whether it is there, because they would try
again and again for a minute, each file anew."""

import logging
import threading
import time

from linnet.errors import first_line

log = logging.getLogger("linnet")

SECONDS = 8.0  # that the hub has to answer
PATIENCE = 60.0  # seconds after which a hub that did not answer is asked again

_gave_up: float | None = None  # when the hub did not answer


def reach_hub(what: str) -> None:
    """Called before something may be fetched. If the hub does not answer, or HF_HUB_OFFLINE is set, what was downloaded
    before is used, and anything else fails at once (see :func:`reason`).

    Args:
        what: is to be fetched, in words.
    """
    global _gave_up
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and (_gave_up is None or time.monotonic() - _gave_up < PATIENCE):
        return
    constants.HF_HUB_OFFLINE, _gave_up = False, None
    log.info("%s: asking the Hugging Face hub", what)
    if (problem := _ask(constants.ENDPOINT)) is not None:
        constants.HF_HUB_OFFLINE, _gave_up = True, time.monotonic()
        log.warning(
            "the Hugging Face hub (%s) does not answer (%s): only models that were downloaded before, or that lie in a "
            "local folder, can be used (HF_HUB_OFFLINE=1 does not even ask)",
            *(constants.ENDPOINT, problem),
        )


def reason(error: Exception) -> str:
    """Why something could not be loaded, in our words if it is not on this machine and cannot be fetched."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    link: BaseException | None = error
    while link is not None and not isinstance(link, LocalEntryNotFoundError | OfflineModeIsEnabled):
        link = link.__cause__ or link.__context__
    if link is None:
        return first_line(error)
    offline = "HF_HUB_OFFLINE is set" if _gave_up is None else "the Hugging Face hub does not answer"
    return f"it was not downloaded before, and {offline if constants.HF_HUB_OFFLINE else 'the hub does not give it'}"


def _ask(endpoint: str) -> str | None:
    """What is wrong; None if the hub answers, whether it gives anything or not."""
    from huggingface_hub.utils import get_session

    problems: list[str | None] = []

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=SECONDS).status_code
            problems.append(None if status < 500 else f"status {status}")
        except Exception as error:  # of httpx, or of requests in older versions
            problems.append(first_line(error))

    asking = threading.Thread(target=ask, daemon=True)  # a name server can take longer than any timeout
    asking.start()
    asking.join(SECONDS)
    return problems[0] if problems else f"no answer in {SECONDS:.0f} seconds"
