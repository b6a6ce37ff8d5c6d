#compdef minidocker
# Zsh asks minidocker itself what a word may become.  Use: . <(minidocker completion zsh)
_minidocker() {
    local -a found
    found=("${(@f)$(minidocker __complete -- "${words[@]:1:CURRENT-1}" 2>/dev/null)}")
    compadd -a found || _files
}
compdef _minidocker minidocker
