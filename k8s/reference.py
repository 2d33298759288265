"""`python -m k8s.reference`: write the launcher's reference, docs/launcher.md, from the parser.

The page's section on JSON is written by hand, and kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from k8s.__main__ import COMMANDS, CommandParser, parser
from k8s.api.errors import MEANINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PAGE = Path(__file__).parents[1] / "docs" / "launcher.md"
BY_HAND = "\n## JSON\n"  # where the part that is written by hand begins
HEAD = """\
# Launcher reference

`mnist-job`, `kubectl mnist-job` and, in a clone, `python -m k8s` are the same command. `mnist-job COMMAND --help`
prints the same text as this page. `eval "$(mnist-job completion bash)"` in `~/.bashrc`, or the same with `zsh` in
`~/.zshrc`, makes the shell complete commands, flags and the names of runs.

Do not install the launcher's wheel in the same environment as the PyPI package `k8s`: both install a folder named
`k8s`.

## Exit statuses

| exit status | meaning |
|---|---|
| 0 | success |
"""
OTHER_STATUSES = """\
| 64 | a flag is wrong, or names a file, folder or overlay that does not exist |
| 130 | Ctrl-C |
| others, with `--wait` | the worker's exit code: [training.md](training.md#exit-codes) |

"""
CONNECTION = "connection and output"
SUBMISSION = ("run", "resources and scheduling")


def page(old: str) -> str:
    """The reference.

    Args:
        old: the page as it is, for the part that is written by hand.
    """
    commands = {name: command_parser(name) for name in COMMANDS}
    statuses = "".join(f"| {int(status)} | {meaning} |\n" for status, meaning in MEANINGS.items())
    submission = [each for title in SUBMISSION for each in actions(commands["submit"], title)]
    parts = [
        HEAD + statuses + OTHER_STATUSES.rstrip("\n"),
        *(section(name, command, submission) for name, command in commands.items()),
        f"## Flags of a submission\n\n{table(submission)}",
        f"## Flags of every command\n\n{table(actions(commands['submit'], CONNECTION)[:-1])}",
    ]
    return "\n\n".join(parts) + "\n" + BY_HAND + by_hand(old)


def by_hand(page: str) -> str:
    """The part of a page that is written by hand."""
    return page.partition(BY_HAND)[2]


def command_parser(name: str) -> CommandParser:
    """A command's own parser."""
    actions = parser([name])._actions  # noqa: SLF001 - argparse has no public way
    [commands] = [each for each in actions if isinstance(each, argparse._SubParsersAction)]  # noqa: SLF001 - the same
    command: CommandParser = commands.choices[name]
    return command


def section(name: str, command: CommandParser, submission: Sequence[argparse.Action]) -> str:
    """The section of one command; of the flags of a submission, those that differ from `submit`'s."""
    usage = command.format_usage().removeprefix("usage: ").strip()
    lines = "\n".join([usage, *command.examples])
    titles = [str(group.title) for group in command._action_groups]  # noqa: SLF001 - the same
    own = [title for title in titles if title not in (CONNECTION, *SUBMISSION)]
    flags = [*(each for title in own for each in actions(command, title)), *actions(command, CONNECTION)[-1:]]
    texts = {each.help for each in submission}
    flags += [
        each for title in titles if title in SUBMISSION for each in actions(command, title) if each.help not in texts
    ]
    text = f"## {name}\n\n{command.description}\n\n```sh\n{lines}\n```\n\n{table(flags)}"
    return text + "\n\nAlso: the [flags of a submission](#flags-of-a-submission)." * (SUBMISSION[0] in titles)


def actions(command: CommandParser, title: str) -> list[argparse.Action]:
    """The flags of a group."""
    [group] = [each for each in command._action_groups if each.title == title]  # noqa: SLF001 - the same
    return [each for each in group._group_actions if each.dest != "help"]  # noqa: SLF001 - the same


def table(flags: Iterable[argparse.Action]) -> str:
    """A table of flags."""
    rows = [f"| `{words(each)}` | {each.help} |" for each in flags]
    rows = [row.replace("<", "&lt;") for row in rows]
    return "\n".join(["| flag | meaning |", "|---|---|", *rows])


def words(action: argparse.Action) -> str:
    """A flag with its value, or a positional argument."""
    value = str(action.metavar or "\\|".join(action.choices or ()) or action.dest.upper())
    if not action.option_strings:
        return value
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {value}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
