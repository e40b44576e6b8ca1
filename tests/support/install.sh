# Installing Debian packages; sourced by scripts that start servers of their own.

# Installs these packages, as root, without starting the servers in them.
install_packages() (
    echo "== installing $*"
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        # A signal ends the function's subshell, and so the policy with it.
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
)
