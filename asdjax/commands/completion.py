"""Completion: the words of every command in, a script for a shell out."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from asdjax.arguments import (
    HELP,
    NO_CACHE,
    PLUGIN,
    QUIET,
    VERBOSE,
    VERSION,
    ConfigName,
    default_of,
    is_section,
    of_each_class,
)
from asdjax.config import recipe as configs
from asdjax.config import schema
from asdjax.config.schema import field_types

_OF_ALL = (*HELP, *VERSION, QUIET, VERBOSE, NO_CACHE, PLUGIN)
_BASH = """\
# completion of asdjax for bash, made by: asdjax completion bash
_asdjax() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
    local i verb="" options="" words=""
    if [ "$word" = "=" ]; then
        word=""
    elif [ "$before" = "=" ]; then
        before="${COMP_WORDS[COMP_CWORD-2]}"
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
        --plugin) # its value; COMP_WORDBREAKS makes a word of =
            i=$((i + 1))
            [[ "${COMP_WORDS[i]}" == = ]] && i=$((i + 1)) ;;
        -*) ;;
        *)
            verb="${COMP_WORDS[i]}"
            break
            ;;
        esac
    done
    case "$verb" in
@VERBS@
    esac
    COMPREPLY=()
    case "$word" in
    -*) words="$options @ALL@" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _asdjax asdjax
"""
_BASH_VERB = """\
    {verb})
        options="{options}"
        words="{words}"
        case "$before" in
{values}
        esac
        ;;"""
_ZSH = """\
# completion of asdjax for zsh, made by: asdjax completion zsh
(( $+functions[compdef] )) || { autoload -U compinit && compinit; }
autoload -U bashcompinit && bashcompinit
"""


@dataclasses.dataclass(frozen=True)
class Words:
    """What may stand on the command line of a verb, for completion by a shell."""

    options: dict[str, tuple[str, ...] | None]
    """Options, with the words that may follow: None for a flag, empty for any word or file."""
    arguments: tuple[str, ...]
    """Words that may be positional arguments, besides paths."""


def words(kind: type[Any]) -> Words:
    """The options of a verb with any recipe and any classes of its sections."""
    instances = [default_of(kind, None)]
    if getattr(kind, "source", None) == "recipe":
        instances += [default_of(kind, name) for name in configs.names()]
    options: dict[str, tuple[str, ...] | None] = {}
    positional: tuple[str, ...] = ()
    for instance in instances:
        for name, hint, values in _settings_in(instance, ""):
            if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
                positional += tuple(word for word in values or () if word not in positional)
                continue
            option = f"--{name.replace('_', '-')}"
            options[option] = values
            if values is None:
                head, dot, last = option[2:].rpartition(".")
                options[f"--{head}{dot}no-{last}"] = None
    return Words(options, positional)


def words_of_several(verbs: Mapping[str, type[Any]]) -> Words:
    """The options of a command's own commands, whose names are its first argument."""
    options = {o: after for verb in verbs.values() for o, after in words(verb).options.items()}
    return Words(options, tuple(verbs))


def _settings_in(value: Any, prefix: str) -> Iterator[tuple[str, Any, tuple[str, ...] | None]]:
    """Dotted name, type and values of each setting in a section; None for a flag."""
    names = schema.name_values(type(value))
    for name, hint in field_types(type(value)).items():
        part = getattr(value, name)
        if part == () and dataclasses.is_dataclass(get_args(hint)[0]):
            continue  # sections of which there are none: they have no options
        if not is_section(part):
            yield f"{prefix}{name}", hint, names.get(name) or _values(hint)
            continue
        unnamed = any(getattr(about, "name", None) == "" for about in get_args(hint)[1:])
        inner = prefix if unnamed else f"{prefix}{name}."
        for i, section in enumerate(part if isinstance(part, tuple) else (part,)):
            place = f"{inner}{i}." if isinstance(part, tuple) else inner
            # a member of a fusion is a backend, as the fusion is: those of the default alone
            within = isinstance(value, schema.Choice) and isinstance(part, tuple)
            for one in [section] if within else of_each_class(section):
                yield from _settings_in(one, place)


def _values(hint: Any) -> tuple[str, ...] | None:
    """The words that an option or argument of this type accepts; None for a flag."""
    if hint is bool:
        return None
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    if {*get_args(ConfigName)[1:]} & {*getattr(hint, "__metadata__", ())}:
        return tuple(configs.names())
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return tuple(word for part in parts for word in _values(part) or ())


_FISH = """\
# completion of asdjax for fish, made by: asdjax completion fish
function __asdjax_verb
    set -l given (commandline -opc)[2..]
    while set -q given[1]
        switch $given[1]
            case --plugin
                set -e given[1]
            case '-*'
            case '*'
                echo $given[1]
                return
        end
        set -e given[1]
    end
end"""


def script(
    shell: Literal["bash", "zsh", "fish"],
    verbs: Mapping[str, Words],
    summaries: Mapping[str, str],
) -> str:
    """A script that makes a shell complete commands, options, their values, recipes and files.

    zsh runs the script for bash, by its own `bashcompinit`.

    Args:
        shell: the shell.
        verbs: the words of each command.
        summaries: a line about each command.
    """
    if shell == "fish":
        return _fish(verbs, summaries)
    cases = [f'    "") words="{" ".join(verbs)}" ;;']
    for verb, of in verbs.items():
        values = [
            f'        {option}) words="{" ".join(after)}" ;;'
            for option, after in of.options.items()
            if after is not None
        ]
        cases.append(
            _BASH_VERB.format(
                verb=verb,
                options=" ".join(of.options),
                words=" ".join(of.arguments),
                values="\n".join([*values, f'        {PLUGIN}) words="" ;;']),
            )
        )
    bash = _BASH.replace("@VERBS@", "\n".join(cases)).replace("@ALL@", " ".join(_OF_ALL))
    return bash if shell == "bash" else _ZSH + bash


def _fish(verbs: Mapping[str, Words], summaries: Mapping[str, str]) -> str:
    lines = [_FISH]
    for option in _OF_ALL:
        kind = "-l" if option.startswith("--") else "-s"
        lines.append(f"complete -c asdjax {kind} {option.lstrip('-')}{' -r' * (option == PLUGIN)}")
    for verb, about in summaries.items():
        first = "complete -c asdjax -n 'not __asdjax_verb | string length -q'"
        lines.append(f"{first} -f -a {verb} -d {shlex.quote(about)}")
    for verb, of in verbs.items():
        here = f"complete -c asdjax -n 'contains {verb} (__asdjax_verb)'"
        if of.arguments:
            lines.append(f"{here} -a '{' '.join(of.arguments)}'")
        for option, after in of.options.items():
            values = f" -x -a '{' '.join(after)}'" if after else " -r" if after == () else ""
            lines.append(f"{here} -l {option[2:]}{values}")
    return "\n".join(lines) + "\n"
