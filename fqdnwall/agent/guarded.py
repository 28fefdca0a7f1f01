"""What `fqdnwall run` is to enforce: read and checked before anything is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from fqdnwall.agent.clock import boot_seconds, process_start
from fqdnwall.agent.policyfiles import Loaded, combined, load_text
from fqdnwall.api.models import Problem, Severity
from fqdnwall.api.options import RunOptions
from fqdnwall.endpoint.endpoint import Subject
from policies import (
    AllowPolicy,
    CidrGroup,
    InvalidAllow,
    Policy,
    allow_policy,
    selected_by,
    selecting_labels,
)


class RunError(Exception):
    """The command cannot be guarded; nothing was started. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class Timings:
    """Where the time of the start goes, from the process's own on: seconds by step."""

    began: float = field(default_factory=process_start)
    last: float = field(default_factory=process_start)
    seconds: dict[str, float] = field(default_factory=dict)

    def done(self, step: str) -> None:
        now = boot_seconds()
        self.seconds[step] = round(now - self.last, 4)
        self.last = now

    def finish(self) -> None:
        self.seconds["first_packet"] = round(boot_seconds() - self.began, 4)


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is to be enforced, checked before anything is made."""

    subject: Subject
    policies: tuple[Policy, ...]
    groups: tuple[CidrGroup, ...]
    documents: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...] = ()


def read_policies(options: RunOptions) -> Guarded:
    """All that the options ask for. Raises RunError where it is not valid or selects nothing."""
    loaded: list[Loaded] = []
    documents: list[tuple[str, str]] = []
    for path in options.policies:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
        loaded.append(load_text(text, str(path)))
        documents.append((str(path), text))
    if options.allow or options.allow_cidr or not options.policies:
        allowed = _allowed(options)
        loaded.append(Loaded((allowed.policy,)))
        documents.append((allowed.policy.source, allowed.text))
    found = combined(loaded)
    if errors := [p.message for p in found.problems if p.severity is Severity.ERROR]:
        raise RunError("\n".join(errors), "`fqdnwall policy validate` checks without running")
    subject = Subject(
        name=os.path.basename(options.command[0]),
        namespace=options.namespace,
        labels=tuple(f"{key}={value}" for key, value in options.labels),
    )
    _must_select(found.policies, subject)
    return Guarded(subject, found.policies, found.groups, tuple(documents), found.problems)


def _allowed(options: RunOptions) -> AllowPolicy:
    try:
        return allow_policy(options.allow, options.allow_cidr, namespace=options.namespace)
    except InvalidAllow as error:
        raise RunError(str(error)) from error


def _must_select(policies: Sequence[Policy], subject: Subject) -> None:
    labels = subject.identity_labels()
    if any(selected_by(policy, labels, subject.namespace) for policy in policies):
        return
    shown = ", ".join(subject.labels) or "no labels"
    raise RunError(
        f"no policy selects the command ({shown}, namespace {subject.namespace}), "
        "so nothing would be enforced",
        "these would, given by --label and --namespace:\n"
        + "\n".join(f"    {name}: {text}" for name, text in selecting_labels(policies).items()),
    )
