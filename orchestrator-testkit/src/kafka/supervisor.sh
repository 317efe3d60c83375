# Watches over one Kafka broker. Run by supervisor.rs as: sh -c <this> supervisor DIR JAVA FLAGS..
# Commands come on stdin, one a line, each answered by one line. End of file means that our user is
# gone, killed perhaps: then the broker goes too, and its folder. Nothing else holds the other end.
dir=$1
shift
pid=

alive() {
    # `jobs` makes the shell collect a child that has ended; before that, kill -0 finds a zombie.
    jobs >/dev/null 2>&1
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null
}
finish() {
    trap '' HUP INT TERM
    if alive; then
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    rm -rf "$dir"
    exit 0
}
trap finish HUP INT TERM
# An answer that nobody hears is no reason to die before the end of file is seen, and to leave the broker behind.
trap : PIPE

while read -r command argument; do
    case $command in
    format)
        if "$@" kafka.tools.StorageTool format --standalone -t "$argument" \
            -c "$dir/server.properties" </dev/null >>"$dir/broker.log" 2>&1; then
            echo ok
        else
            echo "failed to format $dir/data"
        fi ;;
    start)
        if alive; then
            echo "failed: it runs already"
        else
            "$@" kafka.Kafka "$dir/server.properties" </dev/null >>"$dir/broker.log" 2>&1 &
            pid=$!
            echo "ok $pid"
        fi ;;
    signal)
        if alive; then
            kill "-$argument" "$pid" 2>/dev/null
            # TERM and KILL end it: answer when it has ended. The others do not.
            case $argument in
            TERM | KILL)
                wait "$pid" 2>/dev/null
                pid= ;;
            esac
            echo ok
        else
            echo "failed: the broker does not run"
        fi ;;
    alive)
        if alive; then echo ok; else echo "failed: the broker does not run"; fi ;;
    detach)
        # From here on the broker lives until someone sends TERM to this shell. If it ends by
        # itself, its folder stays, for the log.
        echo "ok $$"
        exec </dev/null >/dev/null
        wait "$pid"
        exit 0 ;;
    esac
done
finish
