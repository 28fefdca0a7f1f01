"""The agent's HTTP API on a unix socket: the only door for CLI, CNI plugin and UI.

``models``, ``events`` and ``report`` say what crosses the socket, ``codec`` turns it into JSON and
back, ``backend`` is the protocol that the agent implements, ``server`` serves it, ``client`` calls
it, ``sockets`` finds it, and ``options`` holds what a person asked for on the command line.

Invariant: nothing here imports an adapter or the agent, and importing ``client``, ``models`` or
``options`` loads neither trio nor Starlette, so that a command starts quickly.
"""
