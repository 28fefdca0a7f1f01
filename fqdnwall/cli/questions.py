"""``fqdnwall policy test``, ``verdict`` and ``explain``: what policies would do to flows."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption

if TYPE_CHECKING:
    from policies.casefile import CaseFile, CaseResult


def run_tests(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Test files: named cases, in YAML.")
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Run unit tests of policies.

    A test file has endpoints, policies (or the paths of policy files beside it) and cases: who, to
    or from whom, which port, and what to expect. Needs no agent. The exit status is 0 when all
    pass, 1 when one fails or a file is not valid, 2 when one cannot be read.

    \b
    Example: fqdnwall policy test policies/tests/*.yaml
    """
    from fqdnwall.cli.arguments import read_text
    from fqdnwall.cli.errors import FAILURE
    from fqdnwall.cli.output import show
    from policies.casefile import load_case_file, run_cases

    results = []
    for path in files:
        source, text = read_text(path)
        loaded = load_case_file(text, source, partial(_beside, path.parent))
        results.append((loaded, () if loaded.errors else run_cases(loaded)))
    show([_case_json(*result) for result in results], output, lambda: _case_lines(results))
    if any(loaded.errors or not all(c.passed for c in cases) for loaded, cases in results):
        raise typer.Exit(FAILURE)


def verdict(
    batch: Annotated[
        Path, typer.Option(metavar="FILE", help="Questions, one JSON object a line; - is stdin.")
    ],
) -> None:
    """Judge flows by policies: JSON lines in, JSON lines out.

    Each line is a cluster with its policies and flows; each answer has the verdicts in the flows'
    order, with the rule that decided. Needs no agent.

    \b
    Example: fqdnwall policy verdict --batch questions.jsonl > answers.jsonl
    """
    from fqdnwall.cli.errors import UsageError
    from fqdnwall.cli.output import write
    from policies.batch import judge_lines

    try:
        with sys.stdin if str(batch) == "-" else batch.open(encoding="utf-8") as lines:
            for answer in judge_lines(lines):
                write(f"{answer}\n")
    except OSError as error:
        raise UsageError(f"{batch}: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{batch} is not text in UTF-8", "is it the right file?") from None


def explain(
    policy: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Policy YAML to ask (repeatable); offline."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="PEER", help="Whom the subject would connect to.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="PEER", help="Who would connect to the subject."),
    ] = None,
    port: Annotated[
        str, typer.Option(metavar="PORT[/PROTO]", help="Or TYPE/ICMP. [default: 443/TCP]")
    ] = "",
    dns: Annotated[
        str, typer.Option(metavar="NAME", help="The flow is a DNS query for this name.")
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="A label of the subject (repeatable); offline."),
    ] = None,
    namespace: Annotated[
        str, typer.Option(metavar="NS", help="The subject's namespace; offline.")
    ] = "default",
    cluster: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Endpoints, nodes and names, as in a test file."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="The subject, in the cluster file.")
    ] = None,
    endpoint: Annotated[
        int | None,
        typer.Option(metavar="ID", min=0, help="The subject, live: an endpoint of the agent."),
    ] = None,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what decides on a flow, and what would change it.

    Offline for policy files and labels, or live for an endpoint with what is in force. A PEER is an
    address, a DNS name, K=V[,K=V...][@NAMESPACE], the name of an endpoint, entity:E or node:N.

    \b
    Examples:
      fqdnwall policy explain --policy p.yaml --label app=web --to api.example.com
      fqdnwall policy explain --endpoint 7 --to 192.0.2.1 --port 8443
    """
    from fqdnwall.cli import explain as question
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.arguments import parse_labels, read_text
    from fqdnwall.cli.errors import UsageError
    from fqdnwall.cli.output import show
    from policies.identity import Direction

    if (to is None) == (from_ is None):
        raise UsageError("give one of --to and --from", "see: fqdnwall policy explain --help")
    if (endpoint is None) == (not policy):
        raise UsageError(
            "give --policy FILE (offline) or --endpoint ID (live)",
            "see: fqdnwall policy explain --help",
        )
    if endpoint is not None:
        paper = question.from_agent(connect(socket), endpoint)
    else:
        paper = question.on_paper(
            [read_text(path) for path in policy or ()],
            None if cluster is None else read_text(cluster),
            subject,
            parse_labels(label),
            namespace,
        )
    direction = Direction.EGRESS if to is not None else Direction.INGRESS
    peer = to if to is not None else from_ or ""
    found = question.ask(paper, direction, peer, port, dns)
    asked = f"{paper.subject} {'to' if to is not None else 'from'} {peer}"
    show(
        question.explanation_json(found),
        output,
        lambda: question.explanation_text(found, asked + (f", query for {dns}" if dns else "")),
    )


def _beside(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _case_json(loaded: CaseFile, cases: tuple[CaseResult, ...]) -> dict[str, object]:
    return {
        "file": loaded.source,
        "errors": [{"line": e.line, "path": e.path, "message": e.message} for e in loaded.errors],
        "cases": [
            {
                "name": c.case.name,
                "line": c.case.line,
                "passed": c.passed,
                "problem": c.problem,
                "rule": _deciding(c),
            }
            for c in cases
        ],
    }


def _case_lines(results: list[tuple[CaseFile, tuple[CaseResult, ...]]]) -> str:
    from fqdnwall.cli.output import lines

    found: list[str] = []
    passed = failed = 0
    for loaded, cases in results:
        found += map(str, loaded.errors)
        for c in cases:
            passed, failed = passed + c.passed, failed + (not c.passed)
            if c.passed:
                continue
            found.append(f"{loaded.source}:{c.case.line}: {c.case.name}: {c.problem}")
            found += [f"  {line}" for line in (c.explanation.advice if c.explanation else ())]
    return lines([*found, f"{passed} passed, {failed} failed"])


def _deciding(result: CaseResult) -> str:
    rule = result.explanation.judgement.rule if result.explanation else None
    return str(rule) if rule is not None else ""
