# Watches over one server. Run by process.rs as: sh -c <this> supervisor DIR LOG END
# DIR is the server's folder, made here, LOG a file in it, END the signal that ends the server at once.
# Commands come on stdin, one a line, each answered by one line. End of file means that our user is
# gone, killed perhaps: then the server goes too, and its folder. Nothing else holds the other end.
dir=$1
log=$1/$2
end=$3
pid=

alive() {
    # `jobs` makes the shell collect a child that has ended; before that, kill -0 finds a zombie.
    jobs >/dev/null 2>&1
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null
}
# PostgreSQL has a process for each connection, and each is a group of its own. The server must stand
# still meanwhile, so that no child is made, or collected and its pid given to somebody else.
to_children() {
    ps -e -o ppid= -o pid= | while read -r parent child; do
        [ "$parent" != "$pid" ] || kill "-$1" "$child" 2>/dev/null
    done
}
pause() {
    kill -STOP "$pid" 2>/dev/null
    to_children STOP
}
resume() {
    to_children CONT
    kill -CONT "$pid" 2>/dev/null
}
# Sends $1 and looks $2 times whether the server has ended. One that stands still would not hear it,
# and one that has only just been started may not yet, so it is told again every second.
end_by() {
    looks=0
    while alive; do
        [ "$looks" -lt "$2" ] || return 1
        if [ $((looks % 50)) -eq 0 ]; then
            kill "-$1" "$pid" 2>/dev/null
            resume
        fi
        looks=$((looks + 1))
        sleep 0.02
    done
    pid=
}
finish() {
    trap '' HUP INT TERM
    if alive && ! end_by "$end" 500; then
        pause
        to_children KILL
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    rm -rf "$dir"
    exit 0
}
trap finish HUP INT TERM
# An answer that nobody hears is no reason to die before the end of file is seen, and to leave the server behind.
trap : PIPE

# Nothing of ours is on the disk before somebody watches over it.
if why=$(mkdir -m 700 "$dir" 2>&1); then
    echo ok
else
    echo "failed: $why"
    exit 1
fi
while read -r command argument; do
    case $command in
    run)
        if eval "$argument" </dev/null >>"$log" 2>&1; then
            echo ok
        else
            echo "failed: see $log"
        fi ;;
    start)
        if alive; then
            echo "failed: it runs already"
        else
            eval "exec $argument" </dev/null >>"$log" 2>&1 &
            pid=$!
            echo "ok $pid"
        fi ;;
    pause | resume)
        if alive; then
            "$command"
            echo ok
        else
            echo "failed: the server does not run"
        fi ;;
    end)
        if ! alive; then
            echo "failed: the server does not run"
        elif end_by "$argument" 2500; then
            echo ok
        else
            echo "failed: it still runs"
        fi ;;
    alive)
        if alive; then echo "ok $pid"; else echo "failed: the server does not run"; fi ;;
    detach)
        # From here on the server lives until someone sends TERM to this shell. If it ends by
        # itself, its folder stays, for the log.
        echo "ok $$"
        exec </dev/null >/dev/null
        wait "$pid"
        exit 0 ;;
    esac
done
finish
