# Bash asks minidocker itself what a word may become.  Use: . <(minidocker completion bash)
_minidocker() {
    local IFS=$'\n'
    COMPREPLY=($(minidocker __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}  # a name such as web:1 is one word
complete -o default -F _minidocker minidocker
