# A machine with a real systemd, for tests/deploy/test_systemd.py. It wants CAP_SYS_ADMIN, and no seccomp filter.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus >/dev/null \
 && rm -rf /var/lib/apt/lists/*
# Credentials reach a service through shared mounts. With cgroup v1 systemd needs a hierarchy of its own.
RUN printf '%s\n' '#!/bin/sh' 'mount --make-rshared /' \
    'if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mount -o remount,rw /sys/fs/cgroup; else' \
    '  mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/systemd' \
    '  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd' 'fi' \
    'exec /lib/systemd/systemd --show-status=no' >/boot.sh && chmod +x /boot.sh
STOPSIGNAL SIGRTMIN+3
CMD ["/boot.sh"]
