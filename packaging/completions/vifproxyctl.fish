# fish completion for vifproxyctl: the program itself says what fits.

function __vifproxyctl
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l last (commandline --current-token --cut-at-cursor)
    for line in ($words[1] complete -- $words[2..] "$last" 2>/dev/null)
        if test "$line" = :files
            set -l kept (string match --regex '^--[a-z-]+=' -- "$last")
            for path in (__fish_complete_path (string replace --regex '^--[a-z-]+=' '' -- "$last"))
                echo -- "$kept$path"
            end
        else
            echo -- $line
        end
    end
end

complete --command vifproxyctl --no-files --arguments '(__vifproxyctl)'
