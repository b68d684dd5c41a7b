"""The command `edgeflex`, also as `python -m edgeflex_flow`."""

from __future__ import annotations

from edgeflex_flow import signals


def main() -> None:
    """Run the command line. Signals are held from here on: imports and the compiler may take seconds."""
    signals.hold()
    from edgeflex_flow.cli import main as command_line  # noqa: PLC0415

    try:
        command_line()
    finally:
        signals.ignore()


if __name__ == "__main__":
    main()
