"""`sedd publish`: what waits to be sent to Oxen repositories."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import reported

if TYPE_CHECKING:
    from pipeline.publishing.spool import Spool


@reported
def publish(
    flush: Annotated[bool, typer.Option("--flush", help="Send it; without, only list it.")] = False,
) -> None:
    """List what waits to be sent to Oxen repositories, and send it with --flush.

    The status is 1 if anything still waits after that.
    """
    from pipeline.publishing.spool import waiting_spools

    spools = waiting_spools()
    if not spools:
        print("nothing waits to be sent")
    elif flush:
        sent = [_send(spool) for spool in spools]
        if not all(sent):
            raise SystemExit(1)
    else:
        for spool in spools:
            _list(spool)
        print("`sedd publish --flush` sends what waits")


def _send(spool: "Spool") -> bool:
    """Send what waits for one repository, and say so; whether nothing waits any more."""
    from pipeline.config.params import load_params

    repository = spool.items()[0].repository
    flushed = spool.flush(load_params().oxen)
    if flushed.sent:
        print(f"sent {_commits(len(flushed.sent))} to {repository}")
    if flushed.failure is None:
        return True
    left = _commits(len(spool.items()))
    print(f"still waiting: {left} for {repository} in {spool.folder} ({flushed.failure})")
    return False


def _list(spool: "Spool") -> None:
    items = spool.items()
    print(f"waiting: {_commits(len(items))} for {items[0].repository} in {spool.folder}")
    for item in items:
        print(f"  {item.message}")


def _commits(num: int) -> str:
    return "1 commit" if num == 1 else f"{num} commits"
