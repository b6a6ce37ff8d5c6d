"""Dockerfiles, read: lines, comments, directives, here-documents, forms, flags, stages, words and variables."""

import json
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minidocker.images.build.dockerfile import FLAGS, Instruction, expand, parse
from minidocker.outcome import ContainerError

pytestmark = pytest.mark.chapter(5)


def stages(text):
    """Lists of instructions, each with its FROM."""
    return parse(text)[1]


def instructions(text):
    """Those of the only stage."""
    return stages("FROM scratch\n" + text)[0][1:]


def only(text):
    (instruction,) = instructions(text)
    return instruction


def refused(text):
    with pytest.raises(ContainerError) as raised:
        parse(text)
    assert raised.value.exit_code == 1
    message = str(raised.value)
    assert "\n" not in message
    return message


# Lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN a", "a"),
        ("  \tRUN\t  a  b  ", "a  b"),
        ("run a", "a"),
        ("RUN a \\\n  b", "a   b"),
        ("RUN a\\\nb", "ab"),
        ("RUN a \\  \n  b", "a   b"),  # blanks behind the escape, as editors leave them
        ("RUN a \\\n# a comment\n  b", "a   b"),
        ("RUN a \\\n   # an indented one \\\n  b", "a   b"),
        ("RUN a \\\n\n\n  b", "a   b"),
        ("RUN \\\n  a", "a"),
        ("\\\nRUN a", "a"),
        ("RUN a # no comment", "a # no comment"),
        ("RUN a\\\\\nUSER b", "a\\\\"),  # two are one, and not the end of a line that goes on
        ("RUN a \\", "a"),  # nothing follows
        ("RUN a\r\n", "a"),
        ("RUN a \\\r\n b\r\n", "a  b"),
    ],
)
def test_a_line_goes_on_behind_its_escape(text, expected):
    assert instructions(text)[0].text == expected


def test_line_numbers_are_those_of_the_first_line():
    text = "# one\n\nFROM a\n\nRUN x \\\n  y\n\n# c\nRUN <<EOF\nRUN no\nEOF\nUSER u\n"
    start, *others = stages(text)[0]
    assert start.line == 3
    assert [(item.keyword, item.line) for item in others] == [("RUN", 5), ("RUN", 9), ("USER", 12)]


def test_a_byte_order_mark_is_no_instruction():
    assert stages("\ufeffFROM a\n")[0][0].base == "a"


@pytest.mark.parametrize(
    "head", ["# syntax=docker/dockerfile:1\n", "# a comment\n# escape=`\n", "#escape = \\\n", "\n# escape=`\n"]
)
def test_directives_are_comments(head):
    assert stages(head + "FROM a\n")[0][0].base == "a"


@pytest.mark.parametrize("head", ["# escape=`\n", "# syntax=a/b\n#ESCAPE = `\n", "\ufeff# escape=x\n"])
def test_another_escape_than_a_backslash_is_refused(head):
    """It is for Windows, and without it the file would be read as something else."""
    assert "line 1: # escape=: " in refused(head + "FROM a\nCOPY x `\n  c:\\\n")


# Here-documents


def test_a_here_document_alone_is_the_command():
    run, user = instructions("RUN <<EOF\necho $a\n  # no comment\n\necho \\\nb\nEOF\nUSER u")
    assert run.argv({})[-1] == "echo $a\n  # no comment\n\necho \\\nb\n"
    assert user.text == "u"


def test_a_here_document_beside_a_command_is_the_shell_s():
    run = only("RUN cat <<EOF > /f && sh -s <<'E2'\none\nEOF\n$two\nE2\n")
    assert run.argv({})[-1] == "cat <<EOF > /f && sh -s <<'E2'\none\nEOF\n$two\nE2"


def test_tabs_are_stripped_behind_a_dash():
    run = only("RUN <<-EOF\n\t\techo a\n\t  b\n\tEOF\n")
    assert run.argv({})[-1] == "echo a\n  b\n"
    assert only("RUN cat <<-EOF\n\ta\n\tEOF\n").argv({})[-1] == "cat <<-EOF\na\nEOF"


def test_several_documents_for_copy():
    copy = only("COPY --chmod=755 <<a.txt <<'b.txt' <<\"c\" /d/\n$x\na.txt\n$y\nb.txt\nc\n")
    assert copy.documents == [("a.txt", "$x\n", True), ("b.txt", "$y\n", False), ("c", "", False)]
    assert copy.flags == {"chmod": "755"}


@pytest.mark.parametrize("text", ["RUN echo $((1 << 2))", "RUN cat <<< x", 'RUN ["cat", "<<EOF"]', "CMD cat <<EOF"])
def test_what_is_no_here_document(text):
    assert only(text).documents == []


def test_a_here_document_behind_onbuild_goes_with_it():
    onbuild, user = instructions("ONBUILD RUN <<EOF\na\nEOF\nUSER u")
    assert (onbuild.keyword, user.text) == ("ONBUILD", "u")


def test_a_document_without_an_end():
    assert refused("FROM a\nRUN x\nRUN <<EOF\nabc\n EOF\n") == (
        "Dockerfile line 3: the here-document has no end: there is no line EOF"
    )


# Forms, flags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('RUN ["a", "b c"]', ["a", "b c"]),
        ('CMD [ "a" , "\\u0041" ] ', ["a", "A"]),
        ("CMD []", []),
        ("RUN [ -f /x ] && y", None),
        ("CMD ['a']", None),  # a shell is asked to execute [a], which everybody wonders about once
        ("RUN a", None),
    ],
)
def test_the_exec_form_is_json(text, expected):
    assert only(text).json == expected


def test_flags_come_before_the_words():
    copy = only("COPY --from=build --chown=a:b --chmod=0644 /x --y /z/")
    assert copy.flags == {"from": "build", "chown": "a:b", "chmod": "0644"}
    assert copy.words == ["/x", "--y", "/z/"]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("ENV a=b", [("a", "b")]),
        ("ENV a=b c='d e' f=\"g h\"", [("a", "b"), ("c", "'d e'"), ("f", '"g h"')]),
        ("ENV a=b\\ c d=", [("a", "b\\ c"), ("d", "")]),
        ("ENV a b c=d", [("a", "b c=d")]),
        ("ENV a  b", [("a", "b")]),
        ("LABEL a.b=c \\\n  d=e", [("a.b", "c"), ("d", "e")]),
        ('LABEL "a b"=c', [('"a b"', "c")]),
        ("ENV a=b=c", [("a", "b=c")]),
    ],
)
def test_both_spellings_of_env(text, pairs):
    assert only(text).pairs() == pairs


# Stages


def test_stages_and_the_arguments_before_them():
    arguments, found = parse(
        "ARG V=1\nARG W\nFROM a:$V AS one\nRUN x\nFROM --platform=linux/amd64 scratch\nfrom ONE as Two\n"
    )
    assert [argument.text for argument in arguments] == ["V=1", "W"]
    assert [(start.base, start.name, start.flags.get("platform", "")) for start, *_ in found] == [
        ("a:$V", "one", ""),
        ("scratch", "", "linux/amd64"),
        ("ONE", "two", ""),
    ]


# What is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no FROM"),
        ("# only\n", "there is no FROM"),
        ("ARG a\n", "there is no FROM"),
        ("RUN a\nFROM b\n", "line 1: RUN before the first FROM"),
        ("FROM a\n\nRUNN b\n", "line 3: unknown instruction RUNN"),
        ("FROM a\nRUN\n", "line 2: RUN needs an argument"),
        ("FROM\n", "line 1: FROM needs an argument"),
        ("FROM a b\n", "line 1: FROM takes IMAGE, or IMAGE AS NAME"),
        ("FROM a IS b\n", "line 1: FROM takes IMAGE"),
        ("FROM a AS 1x\n", "line 1: FROM takes IMAGE, or IMAGE AS NAME, of a letter"),
        ("FROM a\nCOPY --x y z\n", "line 2: COPY has no flag --x here; there are: --from --chown --chmod"),
        ("FROM a\nRUN --mounts=type=cache,target=/x y\n", "line 2: RUN has no flag --mounts"),
        ("FROM a\nUSER --x y\n", "line 2: USER has no flag --x here; there are: none"),
        ("FROM a\nCOPY --from x y\n", "line 2: COPY: --from wants one value"),
        ("FROM a\nCOPY --from= x y\n", "line 2: COPY: --from wants one value"),
        ("FROM a\nCOPY --from=a --from=b x y\n", "line 2: COPY: --from wants one value"),
        ("FROM a\nCOPY x\n", "line 2: COPY takes one source or more"),
        ('FROM a\nADD ["x"]\n', "line 2: ADD takes one source or more"),
        ('FROM a\nRUN ["x", 1]\n', "line 2: RUN: only strings may be in the JSON list"),
        ("FROM a\nSHELL /bin/sh\n", "line 2: SHELL takes a JSON list"),
        ("FROM a\nSHELL []\n", "line 2: SHELL takes a JSON list"),
        ("FROM a\nENV a\n", "line 2: ENV: 'a' is not of the form NAME=VALUE"),
        ("FROM a\nENV a=b c\n", "line 2: ENV: 'c' is not of the form NAME=VALUE"),
        ("FROM a\nENV =b\n", "line 2: ENV: '=b' is not of the form NAME=VALUE"),
        ("FROM a\nRUN <<'EOF\nx\nEOF\n", "line 2: the here-document has no end: there is no line 'EOF"),
        ("FROM a\nRUN [" + "[" * 100000, "line 2"),
        ("FROM a\n" + "#" * (1 << 20), "more than 1048576 are refused"),
    ],
)
def test_an_error_names_its_line(text, message):
    if text.endswith("[" * 100):
        assert instructions(text.partition("\n")[2])[0].json is None  # no JSON: a shell may think about it
    else:
        assert message in refused(text)


# Words and variables

HERE = {"x": "1", "y": "two words", "empty": "", "päth": "ü"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$x", "1"),
        ("a$x-b", "a1-b"),
        ("${x}y", "1y"),
        ("$xy", ""),
        ("$", "$"),
        ("a$", "a$"),
        ("$ x", "$ x"),
        ("\\$x", "$x"),
        ("\\\\$x", "\\1"),
        ("'$x'", "$x"),
        ('"$x"', "1"),
        ('"\\$x"', "$x"),
        ('"\\x"', "\\x"),
        ("\\x", "x"),
        ("\"a'b\"'c\"d'", "a'bc\"d"),
        ("${x:-d}${u:-d}${empty:-d}", "1dd"),
        ("${x-d}${u-d}${empty-d}", "1d"),
        ("${x:+a}${u:+a}${empty:+a}", "a"),
        ("${x+a}${u+a}${empty+a}", "aa"),
        ("${u:-${x}}", "1"),
        ('${u:-${v:-"q $x"}}', "q 1"),
        ("${u:-'}'}", "}"),
        ("${u:-\\}}", "}"),
        ("${x:?no}", "1"),
        ("${empty?no}", ""),
        ("$y", "two words"),
        ("$1a$?b", "ab"),
        ("$päth", "ü"),
        ("a\\", "a"),
        ("", ""),
    ],
)
def test_variables(text, expected):
    assert expand(text, HERE) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${u:?set it}", "u: set it"),
        ("${u?}", "u: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${", "cannot substitute ${"),
        ("${}", "cannot substitute ${"),
        ("${x", "cannot substitute ${x"),
        ("${x:-a", "} is missing"),
        ("${x%a}", "cannot substitute ${x%"),
        ("'a", "' is missing"),
        ('"a', '" is missing'),
    ],
)
def test_bad_substitutions(text, message):
    with pytest.raises(ValueError) as raised:
        expand(text, HERE)
    assert message in str(raised.value)


def test_quotes_mean_nothing_in_a_document():
    assert expand("it's \"$x\" '${x}' \\$x \\\\ \\n $\n", HERE, document=True) == "it's \"1\" '1' $x \\ \\n $\n"


WORD = st.text(st.sampled_from("abé $\"'\\"), min_size=1, max_size=12)


@given(st.lists(WORD, min_size=1))
def test_quoted_words_come_back(words):
    """shlex quotes as a shell does, with single quotes."""
    line = " ".join(map(shlex.quote, words))
    assert [expand(word, {}) for word in Instruction(1, f"ARG {line}").words] == words


@given(st.text(st.sampled_from("ab$x{}:-+?'\"\\ \n#<")))
@example("${x:-${x:-'")
def test_expansion_ends_or_says_why(text):
    """Whatever the text is; and one without special characters is not changed."""
    try:
        result = expand(text, HERE)
    except ValueError:
        return
    if not set(text) & set("$'\"\\"):
        assert result == text


@given(st.text(st.sampled_from("RUN COPYENV<-'\"\\\n\r\t #$[]=,a{}")))
@example('ENV a="\\\nb')
@example("RUN <<a <<b\nb\na\nb\n")
def test_any_text_is_read_or_refused(text):
    """One error, with a line that exists; and what was read keeps the lines in order."""
    text = "FROM scratch\n" + text
    try:
        found = stages(text)
    except ContainerError as refusal:
        assert 1 <= int(str(refusal).removeprefix("Dockerfile line ").partition(":")[0]) <= text.count("\n") + 1
        return
    lines = [item.line for stage in found for item in stage]
    assert lines == sorted(set(lines))


@given(st.lists(st.text(min_size=1), min_size=1))
def test_any_list_of_strings_can_be_executed(words):
    assert only("RUN " + json.dumps(words)).json == words
    assert only("RUN " + json.dumps(words, ensure_ascii=False)).json == words


PART = st.text(st.characters(exclude_categories=("Z", "C"), exclude_characters="\\#"), min_size=1, max_size=5)


@given(st.lists(PART, min_size=1), st.lists(st.sampled_from(["", "  ", "# comment", "  # comment \\"])))
def test_a_command_may_be_spread_over_lines(parts, between):
    """However many comments and empty lines are put between its parts."""
    spread = ("\\\n" + "".join(f"{line}\n" for line in between)).join([*parts, "end"])
    (instruction,) = instructions(f"CMD {spread}\n")
    assert (instruction.text, instruction.line) == ("".join(parts) + "end", 2)


# Files as people write them

REAL = [
    (
        """# syntax=docker/dockerfile:1
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 \\
    # why: the image runs as another user
    PIP_NO_CACHE_DIR=1

FROM base AS build
WORKDIR /src
COPY pyproject.toml requirements*.txt ./
RUN set -eux; \\
    apt-get update; \\
    apt-get install -y --no-install-recommends \\
        gcc \\
        # needed by lxml
        libxml2-dev \\
    ; \\
    rm -rf /var/lib/apt/lists/*
COPY . .
RUN ["python", "-m", "build"]

FROM base
COPY --from=build --chown=1000:1000 /src/dist/*.whl /tmp/
RUN pip install /tmp/*.whl
USER 1000
EXPOSE 8000/tcp 8001
HEALTHCHECK --interval=30s --timeout=3s CMD curl -f http://localhost:8000/ || exit 1
ENTRYPOINT ["python", "-m"]
CMD ["app"]
""",
        [("base", ["ENV"]), ("build", ["WORKDIR", "COPY", "RUN", "COPY", "RUN"])]
        + [("", ["COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"])],
    ),
    (
        """FROM debian:bookworm
LABEL org.opencontainers.image.title="a \\"web\\" server" \\
      maintainer=me@example.org
RUN <<EOF
set -e
apt-get update
apt-get install -y nginx
EOF
COPY <<-'CONF' /etc/nginx/conf.d/default.conf
	server {
		listen 80;
		location / { try_files $uri =404; }
	}
	CONF
STOPSIGNAL SIGQUIT
VOLUME ["/var/cache/nginx"]
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
CMD nginx -g 'daemon off;'
""",
        [("", ["LABEL", "RUN", "COPY", "STOPSIGNAL", "VOLUME", "SHELL", "CMD"])],
    ),
]


@pytest.mark.parametrize(("text", "expected"), REAL)
def test_files_as_people_write_them(text, expected):
    read = [(start.name, [item.keyword for item in others]) for start, *others in stages(text)]
    assert read == expected
    windows = stages(text.replace("\n", "\r\n"))
    assert [[item.text for item in stage] for stage in windows] == [
        [item.text for item in stage] for stage in stages(text)
    ]


def test_the_parts_of_such_a_file():
    (_, env), (_, _, copy, run, *_), _ = stages(REAL[0][0])
    assert env.pairs() == [("PYTHONUNBUFFERED", "1"), ("PIP_NO_CACHE_DIR", "1")]
    assert copy.words == ["pyproject.toml", "requirements*.txt", "./"]
    assert run.text.startswith("set -eux;") and "lxml" not in run.text and run.text.endswith("/lists/*")
    _, label, run, conf, *_ = stages(REAL[1][0])[0]
    assert expand(label.pairs()[0][1], {}) == 'a "web" server'
    assert run.argv({})[-1] == "set -e\napt-get update\napt-get install -y nginx\n"
    assert conf.documents[0][1].startswith("server {\nlisten 80;")


def test_every_instruction_of_docker_is_known():
    known = "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL"
    assert sorted(FLAGS) == sorted([*known.split(), "USER", "VOLUME", "WORKDIR"])
