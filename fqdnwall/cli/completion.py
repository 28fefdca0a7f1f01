"""``fqdnwall completion``: shell scripts that complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.")],
) -> None:
    """Print a shell's script that completes commands.

    \b
    Examples:
      fqdnwall completion bash > /etc/bash_completion.d/fqdnwall
      fqdnwall completion zsh  > "${fpath[1]}/_fqdnwall"
      fqdnwall completion fish > ~/.config/fish/completions/fqdnwall.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    from fqdnwall.cli.output import write

    script = get_completion_script(
        prog_name="fqdnwall", complete_var="_FQDNWALL_COMPLETE", shell=shell.value
    )
    write(script + "\n")
