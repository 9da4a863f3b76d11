# Work of one round for each line on stdin; see workloads.py.
work() {
    local -A seen; local -a words; local i text sum=0 rest
    for ((i = 0; i < 120; i++)); do
        sum=$(((sum * 31 + i * i) % 1000003)); words[i]="w$((sum % 97))x"; seen[${words[i]}]+=$i,
    done
    text="${words[*]}"; rest=${text//w/W}; rest=${rest^^}; rest=${rest#*X}
    [[ $text =~ (w[0-9]+x)\ (w[0-9]+x) ]] && sum=$((sum + ${#BASH_REMATCH[2]}))
    case $text in *w13x*) sum=$((sum + 1));; *) sum=$((sum + 2));; esac
    printf -v i '%08x %s %q' "$sum" "${rest:3:20}" "$rest"; sum=$(echo "$i" | while read -r a b; do echo "$a"; done)
    while IFS=, read -r a b; do i+=$b; done <<< "${seen[w13x]}$text"
    eval "i=\"\${#i} $sum ${#seen[@]} $(printf '%s' {a..f}{1..3})\""; trap 'i+=t' USR1; kill -USR1 $BASHPID
    echo "$i $(type -t work) ${!seen[*]}" | { read -r a; echo "$a"; }
}
set -f; while read -r _; do work; done
