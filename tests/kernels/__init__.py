"""Every program on Debian's kernels: they load, and a smoke test passes with real traffic.

    debian     a kernel's package, from the mirror that this machine uses ──┐
    initramfs  Python, the project, its compiled programs ──────────────────┼─▶ machine ─▶ report
    guest/     what runs inside: init, then smoke ─────────────────────────┘   (qemu)

No compiler is inside: what one host compiled has to load everywhere. `python -m tests.kernels` runs
it and writes docs/kernels.md.
"""
