"""``fqdnwall policy``: what is in force, and whether files are valid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption, group

if TYPE_CHECKING:
    from policies import ParseResult

app = group("What is in force, and whether files are valid.")


@app.command()
def get(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="[NAMESPACE/]NAME of a policy to print as YAML; without it, list.",
        ),
    ] = None,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the policies in force and the endpoints that they select, or print one as YAML.

    \b
    Example: fqdnwall policy get default/allow-external-apis
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.errors import CommandError
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import policy_table

    policies = sorted(connect(socket).policies(), key=lambda p: (p.namespace, p.name, p.kind))
    if name is None:
        show(policies, output, lambda: render(policy_table(policies)))
        return
    named = [p for p in policies if name in (p.name, f"{p.namespace}/{p.name}")]
    if not named:
        raise CommandError(f"there is no policy {name} in force", "see: fqdnwall policy get")
    show(named, output, lambda: "---\n".join(p.document for p in named))


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Policy YAML; - is stdin.")
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Check policy files, all errors at once, each with line and field. Needs no agent.

    The exit status is 0 when all are valid, 1 when one is not, 2 when one cannot be read.

    \b
    Example: fqdnwall policy validate policies/*.yaml
    """
    from fqdnwall.cli.errors import FAILURE
    from fqdnwall.cli.output import show
    from policies.parse import parse_policies

    texts = [(str(path), _read(path)) for path in files]
    results = [(source, parse_policies(text, source)) for source, text in texts]
    show(_findings(results), output, lambda: _finding_lines(results))
    if any(result.errors for _, result in results):
        raise typer.Exit(FAILURE)


def _findings(results: list[tuple[str, ParseResult]]) -> list[dict[str, object]]:
    return [
        {
            "file": source,
            "valid": not result.errors,
            "policies": len(result.policies),
            "errors": [
                {"line": e.line, "path": e.path, "message": e.message} for e in result.errors
            ],
        }
        for source, result in results
    ]


def _finding_lines(results: list[tuple[str, ParseResult]]) -> str:
    from fqdnwall.cli.output import lines, plural

    found: list[str] = []
    for source, result in results:
        found += map(str, result.errors)
        if not result.errors:
            found.append(f"{source}: valid, {plural(len(result.policies), 'policy', 'policies')}")
    return lines(found)


def _read(path: Path) -> str:
    from fqdnwall.cli.errors import UsageError

    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8", "is it the right file?") from None
