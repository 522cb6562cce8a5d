"""Ctrl-C, and SIGTERM where it means the same, at a moment of our choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["deferred_interrupt", "sigterm_interrupts"]


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Ctrl-C within the block takes effect at its end, so that all of the block is done or nothing.

    Python delivers it at the first instruction after a long call, where the caller has not yet noted that
    the call is done. The same holds for SIGTERM where Python handles it. Outside of the main thread, which
    alone gets signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    caught = []
    for number in before:
        signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, which batch systems and containers send, does in the block what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
