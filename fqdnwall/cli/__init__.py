"""The ``fqdnwall`` command: Typer for the arguments, the API's client for the answers.

Contract: results go to stdout (a table for people, ``-o json`` for programs), errors to stderr as
one line of what and one line of what to do; the exit status is 0, 1 (failure) or 2 (usage), or that
of the guarded command. Nothing is coloured unless stdout is a terminal.

Invariant: importing a command's module loads Typer and nothing heavier. What a command needs is
imported when it runs, so that ``--help`` and ``fqdn match`` start quickly.
"""
