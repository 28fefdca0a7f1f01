from __future__ import annotations

import pytest

from fqdnwall.sandbox.caller import Account, Caller, caller

ANN = Account("ann", 1000, "/home/ann", "/bin/zsh")


def who(environment: dict[str, str], account: Account | None = ANN) -> Caller:
    return caller(
        environment,
        own_groups=(0, 4),
        account=lambda uid: account,
        groups=lambda name, gid: (gid, 27, 44),
    )


SUDO = {
    "SUDO_UID": "1000",
    "SUDO_GID": "1001",
    "SUDO_USER": "ann",
    "SUDO_COMMAND": "/usr/bin/fqdnwall run",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "MAIL": "/var/mail/root",
    "PATH": "/usr/bin",
    "TERM": "xterm",
    "LANG": "C.UTF-8",
}


def test_the_command_runs_as_the_caller_of_sudo_with_its_groups() -> None:
    found = who(SUDO)
    assert (found.uid, found.gid, found.groups) == (1000, 1001, (1001, 27, 44))
    assert not found.is_root


def test_the_environment_is_the_users_and_knows_nothing_of_sudo() -> None:
    assert who(SUDO).environment == {
        "HOME": "/home/ann",
        "USER": "ann",
        "LOGNAME": "ann",
        "SHELL": "/bin/zsh",
        "MAIL": "/var/mail/ann",
        "PATH": "/usr/bin",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }


@pytest.mark.parametrize("environment", [{}, {"SUDO_UID": "0", "SUDO_GID": "0"}, {"SUDO_UID": ""}])
def test_root_itself_stays_root_with_its_own_environment(environment: dict[str, str]) -> None:
    found = who({"HOME": "/root", **environment})
    assert (found.uid, found.gid, found.groups) == (0, 0, (0, 4))
    assert found.environment == {"HOME": "/root", **environment}


@pytest.mark.parametrize("nonsense", ["-1", "ann", "1e3", "٣"])
def test_a_uid_that_is_no_number_is_not_taken_for_one(nonsense: str) -> None:
    assert who({"SUDO_UID": nonsense}).is_root


def test_an_unknown_uid_works_with_its_number_for_a_name() -> None:
    found = who({"SUDO_UID": "4711", "SUDO_GID": "12"}, account=None)
    assert (found.uid, found.gid, found.groups) == (4711, 12, (12,))
    assert found.environment["HOME"] == "/"
    assert found.environment["USER"] == "4711"


def test_without_sudo_gid_the_accounts_own_group_counts() -> None:
    assert who({"SUDO_UID": "1000"}).gid == 1000
