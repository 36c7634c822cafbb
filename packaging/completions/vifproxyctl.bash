# bash completion for vifproxyctl: the program itself says what fits.

_vifproxyctl() {
	local line=${COMP_LINE:0:COMP_POINT} words word last offered
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	last=${words[-1]}
	# bash takes what follows the last of these characters for the word to be replaced.
	local kept=${last%"${last##*["$COMP_WORDBREAKS"]}"}
	mapfile -t offered < <("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null)
	COMPREPLY=()
	for word in "${offered[@]}"; do
		if [[ $word == :files ]]; then
			compopt -o filenames
			mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "${last#"$kept"}")
			continue
		fi
		word=${word%%$'\t'*}
		[[ $word == *= ]] && compopt -o nospace
		COMPREPLY+=("${word#"$kept"}")
	done
}

complete -F _vifproxyctl vifproxyctl
