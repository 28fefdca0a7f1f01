"""``fqdnwall policy``: what is in force, and what files mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fqdnwall.cli import questions
from fqdnwall.cli.params import Output, OutputOption, SocketOption, group

if TYPE_CHECKING:
    from policies.parse import ParseResult

app = group("What is in force, and what policy files mean.")
app.command("test")(questions.run_tests)
app.command()(questions.verdict)
app.command()(questions.explain)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policy YAML; - is stdin.")]


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
    """List the policies in force, or print one as YAML.

    The list has the endpoints that each policy selects.

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
    documents = dict.fromkeys(p.document for p in named)
    show(named, output, lambda: "---\n".join(documents))


@app.command()
def validate(files: Files, output: OutputOption = Output.TABLE) -> None:
    """Check policy files: all errors, with line and field.

    The files are taken together: one object in two of them is an error. Needs no agent. The exit
    status is 0 when all are valid, 1 when one is not, 2 when one cannot be read.

    \b
    Example: fqdnwall policy validate policies/*.yaml
    """
    from dataclasses import replace

    from fqdnwall.cli.arguments import read_text
    from fqdnwall.cli.errors import FAILURE
    from fqdnwall.cli.output import show
    from policies.parse import parse_policies, together

    texts = [read_text(path) for path in files]
    parsed = [parse_policies(text, source) for source, text in texts]
    # What is wrong between the files is told with the later one.
    across = together(parsed).errors[sum(len(result.errors) for result in parsed) :]
    results = [
        (
            source,
            replace(result, errors=(*result.errors, *(e for e in across if e.source == source))),
        )
        for (source, _), result in zip(texts, parsed, strict=True)
    ]
    show([_finding(*result) for result in results], output, lambda: _finding_lines(results))
    if any(result.errors for _, result in results):
        raise typer.Exit(FAILURE)


@app.command()
def suggest(
    report: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REPORT]",
            help="What fqdnwall run --report wrote; without it, the command that runs is asked.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="The policy's name.")] = "suggested",
    wildcards: Annotated[
        bool,
        typer.Option("--wildcards", help="Propose *.parent where several names of it were used."),
    ] = False,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write the smallest policy that allows what was seen.

    YAML with comments. JSON is the same text, in an object.

    \b
    Examples:
      sudo fqdnwall run --audit --report seen.json -- make
      fqdnwall policy suggest seen.json > policy.yaml
    """
    from fqdnwall.api.codec import CodecError
    from fqdnwall.cli.errors import CommandError, UsageError
    from fqdnwall.cli.output import show
    from policies.suggest import InvalidSuggestion, NotAReport, read_report
    from policies.suggest import suggest as propose

    try:
        seen = _report(report, socket)
        text = propose(read_report(seen), name, wildcards)
    except (NotAReport, CodecError) as error:
        raise UsageError(f"{report}: {error}", "give what fqdnwall run --report wrote") from None
    except InvalidSuggestion as error:
        raise CommandError(str(error), "write the policy by hand, from the report") from None
    show({"policy": text}, output, lambda: text)


def _report(path: Path | None, socket: Path | None) -> dict[str, Any]:
    """A report's JSON, from a file or from the command that runs. Raises CodecError."""
    from fqdnwall.api.codec import decode, encode, loads
    from fqdnwall.api.report import Report
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.arguments import read_text

    if path is None:
        return cast(dict[str, Any], encode(connect(socket).report()))
    return cast(dict[str, Any], encode(decode(Report, loads(read_text(path)[1]))))


def _finding(source: str, result: ParseResult) -> dict[str, object]:
    errors = [{"line": e.line, "path": e.path, "message": e.message} for e in result.errors]
    return {
        "file": source,
        "valid": not errors,
        "policies": len(result.policies),
        "errors": errors,
    }


def _finding_lines(results: list[tuple[str, ParseResult]]) -> str:
    from fqdnwall.cli.output import lines, plural

    found: list[str] = []
    for source, result in results:
        found += map(str, result.errors)
        if not result.errors:
            found.append(f"{source}: valid, {plural(len(result.policies), 'policy', 'policies')}")
    return lines(found)
