"""What Ollama's own bodies ask for, what of them is forwarded, and what its answers tell."""

import json

import pytest

from corral.dialects import dialect
from corral.dialects.errors import render
from corral.dialects.forms import ollama
from corral.dialects.forms.chat import CHAT
from corral.dialects.model import BadRequest, ErrorStyle, Problem, RouteClass, Usage
from corral.dialects.sanitise import FieldBounds, check_fields
from corral.dialects.streams import last_usage

BOUNDS = FieldBounds(max_logprobs=20, max_logit_bias=300, grammar=False, max_schema=200, max_schema_depth=4)
SEA = [{"role": "user", "content": "Tell me of the sea."}]
METRICS = {
    "done": True, "total_duration": 9_000_000, "load_duration": 1_000_000, "prompt_eval_count": 26,
    "prompt_eval_duration": 1_500_000, "eval_count": 290, "eval_duration": 4_000_000,
}  # fmt: skip


def chat(**more):
    return {"model": "tiny", "messages": SEA, **more}


def checked(body):
    check_fields(body, BOUNDS)
    return body


@pytest.mark.parametrize("value", [None, 0, -1, -2, -7])
def test_no_maximum_and_every_endless_one_are_the_same(value):
    for form, body in ((ollama.CHAT, chat()), (ollama.GENERATE, {"model": "tiny", "prompt": "hi"})):
        body["options"] = {"num_predict": value}
        assert form.read(body).max_tokens is None
        form.clamp(body, 64)
        assert body["options"] == {"num_predict": 64}


def test_a_maximum_is_read_and_written_where_ollama_reads_it():
    body = chat(options={"num_predict": 5.0, "seed": 1}, max_tokens=9, n_predict=9)
    assert ollama.CHAT.read(body).max_tokens == 5
    ollama.CHAT.clamp(body, 5)
    assert body == chat(options={"num_predict": 5, "seed": 1})
    body = chat()
    ollama.CHAT.clamp(body, 5)
    assert body["options"] == {"num_predict": 5}


@pytest.mark.parametrize("value", ["5", True, 1.5, [5]])
def test_a_maximum_that_is_no_number_is_refused(value):
    with pytest.raises(BadRequest):
        ollama.CHAT.read(chat(options={"num_predict": value}))


def test_streams_are_what_is_asked_for_unless_they_are_refused():
    assert [ollama.CHAT.read(chat(**more)).stream for more in ({}, {"stream": None}, {"stream": True})] == [True] * 3
    assert not ollama.CHAT.read(chat(stream=False)).stream
    with pytest.raises(BadRequest):
        ollama.CHAT.read(chat(stream=0))


@pytest.mark.parametrize("name", ["Stream", "KEEP_ALIVE", "Options", "\u017ftream", "\u212aeep_alive", "Prompt"])
def test_names_that_go_reads_as_others_are_refused(name):
    forms = [(ollama.CHAT, chat()), (ollama.GENERATE, {"prompt": "hi"}), (ollama.EMBED, {"input": "hi"}),
             (ollama.SHOW, {"model": "tiny"})]  # fmt: skip
    forms += [(route.form, {"messages": SEA, "prompt": "a", "input": "a"})
              for _, path, route in dialect("ollama").routes() if path.startswith(b"/v1/") and route.form]  # fmt: skip
    assert len(forms) == 9
    for form, body in forms:
        form.read(dict(body))
        with pytest.raises(BadRequest, match="lower case"):
            form.read({**body, name: 1})


def test_all_that_the_model_may_read_counts():
    image = "A" * 4000
    plain = ollama.GENERATE.read({"prompt": "hi"}).prompt_chars
    assert ollama.GENERATE.read({"prompt": "hi", "system": "x" * 70}).prompt_chars == plain + 70
    assert ollama.GENERATE.read({"prompt": "hi", "suffix": "x" * 70}).prompt_chars == plain + 70
    assert ollama.GENERATE.read({"prompt": "hi", "images": [image]}).prompt_chars > plain + 4000
    assert ollama.GENERATE.read({"prompt": "hi", "context": [1] * 50}).prompt_chars >= plain + 200
    told = [{"role": "user", "content": "hi", "images": [image]}]
    assert ollama.CHAT.read(chat(messages=told)).prompt_chars > 4000
    assert ollama.EMBED.read({"input": ["abc", "abcd"]})._replace(prompt_chars=0).inputs == 2
    assert ollama.EMBEDDINGS.read({"prompt": "abc"}).prompt_chars == 3


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": " \n", "keep_alive": 0}])
def test_no_prompt_would_load_or_unload_the_model_so_it_is_blank(body):
    assert ollama.GENERATE.read(body).blank
    with pytest.raises(BadRequest):
        ollama.CHAT.read(chat(messages=[]))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"prompt": "hi", "template": "{{ range .Messages }}{{ end }}"}, "template"),
        ({"prompt": "hi", "context": ["text"]}, "context"),
        ({"prompt": ["hi"]}, "prompt"),
        ({"prompt": "hi", "options": [1]}, "options"),
    ],
)
def test_what_cannot_be_read_is_refused(body, name):
    with pytest.raises(BadRequest) as caught:
        ollama.GENERATE.read(body)
    assert caught.value.param == name


def test_what_loads_or_keeps_a_model_is_not_passed_on():
    body = checked(
        chat(
            keep_alive=-1,
            shift=False,
            _debug_render_only=True,
            options={
                "num_ctx": 10**9, "num_batch": 1, "num_gpu": 0, "main_gpu": 3, "use_mmap": False, "num_thread": 1,
                "draft_num_predict": 99, "numa": True, "whatever": 1, "temperature": 0.5, "stop": ["a"], "seed": None,
            },
        )
    )  # fmt: skip
    assert body == chat(options={"temperature": 0.5, "stop": ["a"]})


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"temperature": 1e30}},
        {"options": {"top_k": "many"}},
        {"options": {"stop": ["x"] * 17}},
        {"options": "num_ctx"},
        {"format": {"type": "string", "pattern": "(a+)+"}},
        {"format": {"a": {"a": {"a": {"a": {"a": 1}}}}}},
        {"format": {"description": "x" * 300}},
        {"format": 5},
        {"think": ["high"]},
        {"think": "x" * 100},
        {"raw": "yes"},
        {"tools": [{"description": "x" * 300}]},
    ],
)
def test_options_and_schemas_have_bounds(more):
    with pytest.raises(BadRequest):
        checked(chat(**more))


@pytest.mark.parametrize("more", [{"format": "json"}, {"format": {"type": "object"}}, {"think": "high"}, {"raw": True}])
def test_what_honest_clients_send_passes(more):
    assert checked(chat(**more)) == chat(**more)


def test_only_a_models_name_is_asked_about():
    body = {"name": "tiny", "verbose": True, "options": {"num_ctx": 5}, "system": "x"}
    assert ollama.SHOW.read(body).model == "tiny"
    assert body == {"model": "tiny"}


def test_usage_is_read_from_the_last_object():
    assert ollama.CHAT.usage(METRICS) == Usage(26, 290, 5.5)
    assert ollama.GENERATE.usage({"done": False, "response": "a"}) is None
    nothing = {name: value for name, value in METRICS.items() if "eval" not in name}
    assert ollama.CHAT.usage(nothing) == Usage(None, 0, None)
    assert ollama.EMBED.usage({"embeddings": [], **METRICS}) == Usage(26, 0, 8.0)
    assert ollama.EMBEDDINGS.usage({"embedding": [0.5]}) is None


def lines(*values):
    return b"".join(json.dumps(value, separators=(",", ":")).encode() + b"\n" for value in values)


def test_usage_is_read_from_the_end_of_a_stream():
    last = {"model": "tiny", "response": "", "context": list(range(30_000)), **METRICS}
    stream = lines({"response": 'data: {"a":1}', "done": False}, last)
    assert last_usage(ollama.GENERATE, stream) == Usage(26, 290, 5.5)
    assert last_usage(ollama.GENERATE, stream[-65536:]) == Usage(26, 290, 5.5)  # begins within the context
    assert last_usage(ollama.GENERATE, stream[:-30]) is None
    assert last_usage(ollama.GENERATE, lines({"response": "a", "done": False}, {"error": "gone"})) is None
    cut = b'data: {"a":1}\n\ndata: {"usage":{"prompt_tokens":3,"completion_tokens":4}}\n'
    assert last_usage(CHAT, cut) == Usage(3, 4, None)
    said = {"response": ',"total_duration":1,"eval_count":1}', "done": False}
    assert last_usage(ollama.GENERATE, lines(said)[20:]) is None  # what a model says is no metric


def test_what_changes_the_server_is_management():
    known = {(method, path): route.kind for method, path, route in dialect("ollama").routes()}
    for path in ("pull", "push", "create", "copy", "me", "signout", "experimental/web_fetch"):
        assert known[b"POST", f"/api/{path}".encode()] is RouteClass.MANAGEMENT
    assert known[b"DELETE", b"/api/delete"] is RouteClass.MANAGEMENT
    assert (b"POST", b"/api/blobs/sha256:00") not in known


def test_errors_are_a_string():
    problem = Problem(429, "quota_exceeded", "Too many.")
    body = json.loads(render(problem, ErrorStyle.OLLAMA, detail={"violated-policies": ["client"]}))
    assert body["error"] == "Too many."
    assert body["violated-policies"] == ["client"]
