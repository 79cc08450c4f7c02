# What is done when the package comes, changes and goes; the same for deb, rpm and tarball.
# POSIX sh; each function may run twice, and none needs systemd to be running.
STATE=/var/lib/cairn-agent

runs_systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; }

make_users() {
    getent group cairn >/dev/null 2>&1 || grep -q '^cairn:' /etc/group || groupadd --system cairn
    for user in cairn-agent cairn-dataplane; do
        grep -q "^$user:" /etc/passwd || useradd --system --gid cairn --no-create-home \
            --home-dir /nonexistent --shell /usr/sbin/nologin --comment Cairn "$user"
    done
}

# After the files are in place; $1 is the version before, empty where there was none.
configured() {
    # What dpkg removed and did not purge it calls by its version still; the services are off.
    if [ -d $STATE/removed ]; then
        rmdir $STATE/removed || :
        set -- ""
    fi
    make_users
    mkdir -p $STATE
    chown -R cairn-agent:cairn $STATE
    chmod 0700 $STATE
    if ! runs_systemd; then
        # A chroot or an image: what boots it later starts them.
        [ -n "$1" ] || ! command -v systemctl >/dev/null 2>&1 ||
            systemctl enable cairn-dataplane.service cairn-agent.service >/dev/null 2>&1 || :
        return 0
    fi
    systemctl daemon-reload
    if [ -z "$1" ]; then
        systemctl enable --quiet cairn-dataplane.service cairn-agent.service
        systemctl start cairn-dataplane.service cairn-agent.service ||
            echo "cairn-agent: it didn't start; see journalctl -u cairn-agent -u cairn-dataplane" >&2
        return 0
    fi
    # Traffic goes on: the new data plane takes sockets and TAPs over from the one that runs.
    if systemctl is-active --quiet cairn-dataplane.service; then
        systemctl reload cairn-dataplane.service || systemctl restart cairn-dataplane.service || :
    fi
    systemctl try-restart cairn-agent.service || :
}

# Before the files go: this machine is as it was before, and stays joined until it is purged.
removing() {
    if runs_systemd; then
        systemctl disable --quiet --now cairn-agent.service || :
    elif command -v systemctl >/dev/null 2>&1; then
        systemctl disable cairn-agent.service cairn-dataplane.service >/dev/null 2>&1 || :
    fi
    /usr/lib/cairn/bin/cairn-agent clear || :
    if runs_systemd; then systemctl disable --quiet --now cairn-dataplane.service || :; fi
    mkdir $STATE/removed 2>/dev/null || : # a folder: root follows no link of the agent's user here
}

# After the files went.
removed() {
    rm -rf /run/cairn /run/cairn-dataplane /run/cairn-facts
    if runs_systemd; then systemctl daemon-reload || :; fi
}

# For good: the identity and the users too.
purged() {
    rm -rf $STATE
    for user in cairn-agent cairn-dataplane; do
        if grep -q "^$user:" /etc/passwd; then userdel "$user" || :; fi
    done
    if grep -q '^cairn:' /etc/group; then groupdel cairn || :; fi
}
