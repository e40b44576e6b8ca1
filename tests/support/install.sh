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

# Debian sid with these packages (a,b,…) in a folder, once, as root. Nothing is mounted or started there:
# its programs run as `sid_program` says. Whoever comes while it is being fetched waits for that.
debian_sid() {
    local root=$1 packages=$2 lock
    exec {lock}>"$root.lock"
    flock "$lock"
    [[ ! -e $root ]] || return 0
    if ((EUID != 0)) || ! command -v debootstrap >/dev/null; then
        echo "Debian sid is fetched by root and debootstrap" >&2
        return 1
    fi
    echo "== Debian sid with $packages, once, into $root"
    # What was interrupted has left them mounted.
    umount "$root.part"/{proc,sys} 2>/dev/null || true
    rm -rf --one-file-system "$root.part"
    if ! debootstrap --variant=minbase --include="$packages" sid "$root.part" http://deb.debian.org/debian >"$root.log" 2>&1; then
        tail -n 1 "$root.log" >&2
        return 1
    fi
    mv "$root.part" "$root"
}

# The command line of a program in such a folder, with its own loader and libraries.
sid_program() {
    local root=$1 program=$2
    echo "$root/lib64/ld-linux-x86-64.so.2 --library-path $root/usr/lib/x86_64-linux-gnu $root$program"
}
