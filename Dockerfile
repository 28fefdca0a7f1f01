# The agent, as it runs on a node and guards containers that exist there.
#
#   docker build -t fqdnwall .
#
#   docker run -d --name fqdnwall --restart unless-stopped \
#     --network host --pid host \
#     --cap-drop ALL --cap-add BPF --cap-add PERFMON --cap-add NET_ADMIN --cap-add NET_RAW \
#     --cap-add SYS_ADMIN --cap-add SYS_PTRACE --security-opt apparmor=unconfined \
#     -v /sys/fs/bpf:/sys/fs/bpf -v /run/fqdnwall:/run/fqdnwall -v /run/netns:/run/netns:rslave \
#     -v /etc/fqdnwall/policies:/etc/fqdnwall/policies:ro \
#     fqdnwall
#
#   docker exec fqdnwall fqdnwall endpoint add --pid "$(docker inspect -f '{{.State.Pid}}' web)" \
#     --name web --label app=backend
#
# What each is for (without PERFMON, NET_RAW or SYS_PTRACE it was seen to fail):
#   --network host     the host's side of the veth pairs is in the host's network namespace
#   --pid host         `endpoint add --pid` names processes of the host
#   BPF, PERFMON       load programs and maps; the verifier refuses the programs without PERFMON
#   NET_ADMIN          attach programs, transparent sockets, rules and routes for the proxy
#   NET_RAW            answer DNS clients from the address that they asked
#   SYS_ADMIN          setns(2) into an endpoint's network namespace, to see its addresses;
#                      nothing is mounted
#   SYS_PTRACE         read /proc/PID/ns/net of another user's process
#   apparmor           Docker's default profile forbids pinning below /sys/fs/bpf
# The datapath is in those pins: it stays in force while the container is replaced or is gone.
# `docker exec fqdnwall fqdnwall cleanup` ends it.

FROM debian:bookworm-slim AS base
ENV DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/fqdnwall
COPY setup/debian-packages setup/
RUN apt-get -q update \
 && sed -e '/^# --- development/,$d' -e 's/#.*//' setup/debian-packages \
    | xargs apt-get -q install -y --no-install-recommends \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
RUN apt-get -q update && apt-get -q install -y --no-install-recommends python3-venv \
 && /usr/bin/python3 -m venv --system-site-packages .venv
COPY requirements-image.lock .
RUN .venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY policies policies
COPY dnsproxy dnsproxy
COPY fqdnwall fqdnwall
RUN .venv/bin/pip install --no-deps --no-build-isolation --no-index --disable-pip-version-check -e . \
 && .venv/bin/python -m compileall -q policies dnsproxy fqdnwall

FROM base
COPY --from=build /opt/fqdnwall /opt/fqdnwall
COPY bpf bpf
COPY LICENSES LICENSES
ENV PATH=/opt/fqdnwall/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["fqdnwall"]
CMD ["agent", "--policy-dir", "/etc/fqdnwall/policies"]
