"""Which rows an edit works with: contexts, clusters, and the keys in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import ConfigError, RequestError
from easyedit_personal.generation import shared_prefix
from easyedit_personal.kernels import keys, memit, rome
from easyedit_personal.kernels.key_options import HOST, KeyOptions
from easyedit_personal.kernels.keys import (
    NEUTRAL_CONTEXTS,
    ROWS_PER_CLUSTER,
    all_rows,
    batched,
    context_templates,
    make_clusters,
    membership,
    phrase_means,
    read,
    up_to_key,
)
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded
from easyedit_personal.modeling.trace import trace

HOBBY = EditRequest("What's my hobby?", "hiking", "hobby", cluster="hobby")
PASTIME = EditRequest("What's my pastime?", "hiking", "pastime", cluster="hobby")
OURS = KeyOptions()
FOOD = EditRequest("What do I eat? My food?", "noodles", "food", cluster="food")


def settings(**changes):
    return PersonalizationHyperParams(**changes)


def test_contexts_stand_inside_the_users_turn(llama, tokenizer):
    (cluster,) = make_clusters(llama, tokenizer, [HOBBY], settings(context_templates=["By the sea. {}"]), OURS)
    bare, inside = cluster.rows[0]
    assert tokenizer.decode(bare.ids) == "<|user|>What's my hobby?<|end|><|assistant|>hiking<|end|>"
    assert tokenizer.decode(inside.ids) == "<|user|>By the sea. What's my hobby?<|end|><|assistant|>hiking<|end|>"
    for row in (bare, inside):
        assert tokenizer.decode(row.prompt_ids[: row.key_index + 1]).endswith("my hobby")


def test_drift_rows_end_at_the_subject(llama, tokenizer):
    (cluster,) = make_clusters(llama, tokenizer, [HOBBY, PASTIME, HOBBY], settings(), OURS)
    assert [tokenizer.decode(row.ids) for row in cluster.drift] == ["<|user|>hobby", "<|user|>pastime"]
    assert make_clusters(llama, tokenizer, [HOBBY], settings(kl_factor=0.0), OURS)[0].drift == ()
    assert make_clusters(llama, tokenizer, [EditRequest("Hobby?", "x")], settings(), OURS)[0].drift == ()
    (last,) = make_clusters(llama, tokenizer, [HOBBY], settings(fact_token="last"), OURS)[0].drift
    assert tokenizer.decode(last.ids) == "<|user|>hobby is a<|end|><|assistant|>"


def test_more_phrases_get_fewer_contexts(llama, tokenizer):
    counts = []
    for phrases in (1, 3, 9, 30):
        templates = context_templates(llama, tokenizer, settings(), OURS, phrases)
        assert templates[0] == "{}"
        assert 2 <= len(templates) <= len(NEUTRAL_CONTEXTS)
        assert len(templates) == 2 or phrases * len(templates) <= ROWS_PER_CLUSTER
        counts.append(len(templates))
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_braces_in_the_users_text_are_text(llama, tokenizer):
    request = EditRequest("What {} is {0} my {hobby}?", "a {x} b", "{hobby}")
    (cluster,) = make_clusters(llama, tokenizer, [request], settings(), OURS)
    for row in cluster.rows[0]:
        assert "What {} is {0} my {hobby}?" in tokenizer.decode(row.ids)
        assert tokenizer.decode(row.target_ids) == "a {x} b<|end|>"


def test_a_template_needs_a_place(llama, tokenizer):
    with pytest.raises(ConfigError, match=r"needs \{\} once"):
        make_clusters(llama, tokenizer, [HOBBY], settings(context_templates=["{}", "no place"]), OURS)


def test_a_context_that_does_not_fit_is_left_out(llama, tokenizer):
    long = "hills " * 300 + "{}"
    (cluster,) = make_clusters(llama, tokenizer, [HOBBY], settings(context_templates=[long, "Good. {}"]), OURS)
    assert [len(phrase) for phrase in cluster.rows] == [2]
    with pytest.raises(RequestError, match="do not fit the model's context of 256"):
        make_clusters(llama, tokenizer, [EditRequest("hills " * 300, "x")], settings(), OURS)


def test_phrases_belong_together_by_cluster_and_target(llama, tokenizer):
    other_target = EditRequest("What's my recreation?", "chess", "recreation", cluster="hobby")
    alone = EditRequest("And my dog?", "Rex")
    clusters = make_clusters(llama, tokenizer, [HOBBY, FOOD, PASTIME, other_target, alone, alone], settings(), OURS)
    assert [cluster.members for cluster in clusters] == [(0, 2), (1,), (3,), (4,), (5,)]
    assert torch.equal(
        membership(clusters).long(),
        torch.tensor(
            [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
        ),
    )


def test_every_faulty_request_is_named(llama, tokenizer):
    bad = [HOBBY, EditRequest("What's my food?", " ", "food"), EditRequest("My dog?", "Rex", "cat", user="ann")]
    with pytest.raises(RequestError, match=r"(?s)2 of 3 requests.*request 1.*request 2 of user 'ann'"):
        make_clusters(llama, tokenizer, bad, settings(), OURS)


def test_keys_are_what_enters_the_projection(any_model, tokenizer):
    layout = find_layout(any_model)
    rows = all_rows(make_clusters(any_model, tokenizer, [HOBBY, FOOD], settings(), OURS))
    seen = read(any_model, tokenizer, layout, rows, 1, hidden_layer=2)
    for i, row in enumerate(rows):
        with torch.no_grad(), trace(any_model, [layout.rewrite_path(1), layout.layer_path(2)]) as calls:
            any_model(torch.tensor([row.ids]))
        down, top = calls[layout.rewrite_path(1)], calls[layout.layer_path(2)]
        for found, wanted in ((seen.keys, down.input), (seen.outputs, down.output), (seen.hidden, top.output)):
            torch.testing.assert_close(found[i], wanted[0, row.key_index], atol=1e-5, rtol=1e-4)


def test_equal_beginnings_run_once_and_batches_are_bounded(llama, tokenizer, monkeypatch):
    requests = [
        EditRequest(f"What's my hobby{end}", target, "hobby") for end in "?!." for target in ("hiking", "chess")
    ]
    rows = all_rows(make_clusters(llama, tokenizer, requests, settings(context_templates=["{}", "Good. {}"]), OURS))
    sizes = []
    llama.model.embed_tokens.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    whole = read(llama, tokenizer, find_layout(llama), rows, 1)
    assert (len(rows), sizes) == (12, [2])
    monkeypatch.setattr(keys, "READ_TOKENS", 1)
    parts = read(llama, tokenizer, find_layout(llama), rows, 1)
    assert sizes == [2, 1, 1]
    torch.testing.assert_close(parts.keys, whole.keys)
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_beginnings_that_many_share_run_once(any_model, tokenizer, monkeypatch):
    """Different lengths behind two contexts; where a window slides, rows are read whole."""
    subjects = ["hobby", "favourite food", "doctor", "pet", "music in the hills"]
    requests = [EditRequest(f"What is my {subject}?", "hiking", subject) for subject in subjects]
    templates = ["{}", "In a small town by the sea. {}", "Tell me more about the music that you like best. {}"]
    rows = all_rows(make_clusters(any_model, tokenizer, requests, settings(context_templates=templates), OURS))
    layout, tokens = find_layout(any_model), []
    embedding = any_model.get_input_embeddings()
    with embedding.register_forward_hook(lambda module, args, out: tokens.append(args[0].numel())):
        monkeypatch.setattr(shared_prefix, "SAVED", 10**6)
        whole = read(any_model, tokenizer, layout, rows, 1, hidden_layer=2)
        alone, tokens[:] = sum(tokens), []
        monkeypatch.setattr(shared_prefix, "SAVED", 1)
        shared = read(any_model, tokenizer, layout, rows, 1, hidden_layer=2)
    cut = [*dict.fromkeys(map(up_to_key, rows))]
    if shared_prefix.slides(any_model):
        assert sum(len(row.ids) for row in cut) <= sum(tokens) <= alone
    else:
        assert sum(tokens) < alone / 2
        assert [len(one) for one in shared_prefix.families(cut)[0]] == [5, 5, 5]
    for name in ("keys", "outputs", "hidden"):
        torch.testing.assert_close(getattr(shared, name), getattr(whole, name), atol=1e-6, rtol=1e-5)


def test_a_phrases_key_is_the_mean_over_its_contexts(llama, tokenizer):
    clusters = make_clusters(llama, tokenizer, [HOBBY, PASTIME, FOOD], settings(), OURS)
    rows = all_rows(clusters)
    values = torch.randn(len(rows), 6)
    means, start = phrase_means(values, clusters, OURS.key_weights), 0
    for number, phrase in enumerate(phrase for cluster in clusters for phrase in cluster.rows):
        torch.testing.assert_close(means[number], values[start : start + len(phrase)].mean(0))
        start += len(phrase)


def test_host_mode_is_raw_and_reads_the_bare_prompt(llama, tokenizer):
    hparams = settings(context_templates=["{}", "The sea. {}", "The hills. {}"])
    (cluster,) = make_clusters(llama, tokenizer, [HOBBY], hparams, HOST)
    assert [tokenizer.decode(row.ids) for row in cluster.rows[0]] == [
        "What's my hobby? hiking",
        "The sea. What's my hobby? hiking",
        "The hills. What's my hobby? hiking",
    ]
    assert HOST.read_weights(3).tolist() == [1, 0, 0]
    torch.testing.assert_close(HOST.key_weights(3), torch.full((3,), 1 / 3))
    assert memit.HOSTS.key_weights(3).tolist() == [0.5, 0.25, 0.25]
    assert torch.equal(OURS.read_weights(3), OURS.key_weights(3))


def test_host_mode_lets_the_model_begin_sentences(llama, tokenizer):
    options = rome._options(settings(host_mode=True, context_template_length_params=[[4, 5], [8, 10]]))
    templates = context_templates(llama, tokenizer, settings(), options)
    assert templates == context_templates(llama, tokenizer, settings(), options)
    assert len(templates) == 16
    assert all(text.endswith(". {}") and text.count("{") == 1 for text in templates[1:])
    assert [text.startswith(word) for text, word in zip(templates[1:6], ("The", "There", "Bec", "I", "You"))] == [
        True
    ] * 5
    assert len(context_templates(llama, tokenizer, settings(), memit.HOSTS)) == 6


def test_what_the_model_begins_holds_no_control_tokens(llama, tokenizer, monkeypatch):
    control = tokenizer.all_special_ids[0]
    monkeypatch.setattr(
        "easyedit_personal.kernels.keys.sample",
        lambda model, tokenizer, rows, *_, **__: [(9, control, 9) for _ in rows],
    )
    for text in context_templates(llama, tokenizer, settings(), memit.HOSTS):
        assert tokenizer.convert_ids_to_tokens(control) not in text


def test_a_single_phrase_has_most_contexts(llama, tokenizer):
    alone, many = (context_templates(llama, tokenizer, settings(), OURS, *given) for given in ((), (9,)))
    assert alone == context_templates(llama, tokenizer, settings(), OURS, 1) and len(alone) > len(many) == 2


@pytest.mark.parametrize(("phrases", "contexts"), [(1, 8), (2, 8), (3, 6), (4, 4), (9, 2), (30, 2)])
def test_a_cluster_has_eighteen_rows_or_so(llama, tokenizer, phrases, contexts):
    assert len(context_templates(llama, tokenizer, settings(), OURS, phrases)) == contexts


def test_sentences_that_the_model_begins_are_as_long_as_asked_for(llama, tokenizer, monkeypatch):
    asked = []

    def sample(model, tokenizer, rows, tokens, **_):
        asked.append(tokens + len(rows[0].ids))
        return [(9,) for _ in rows]

    monkeypatch.setattr("easyedit_personal.kernels.keys.sample", sample)
    context_templates(llama, tokenizer, settings(), replace(HOST, sentences=((4, 5), (8, 10))))
    assert asked == [4, 8]


@pytest.mark.parametrize(
    ("options", "shares"),
    [(HOST, [1.0, 1 / 2, 1 / 2, *[1 / 3] * 3]), (memit.HOSTS, [1.0, 1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 4])],
)
def test_the_hosts_memit_gives_half_to_the_bare_prompt(options, shares):
    weights = [options.key_weights(n) for n in (1, 2, 3)]
    torch.testing.assert_close(torch.cat(weights), torch.tensor(shares))


def test_nothing_runs_above_the_layers_that_are_read(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    requests = [EditRequest(f"What is my {name}?", "hiking", name) for name in ("hobby", "favourite food", "pet")]
    rows = all_rows(make_clusters(llama, tokenizer, requests, settings(context_templates=["In the hills. {}"]), OURS))
    ran = []
    for number, layer in enumerate(llama.model.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    read(llama, tokenizer, find_layout(llama), rows, 1)
    assert shared_prefix.shared_length(llama, [*dict.fromkeys(map(up_to_key, rows))])
    assert set(ran) == {0, 1}


def test_the_first_word_counts_towards_the_length(llama, tokenizer, monkeypatch):
    """EasyEdit's length includes the word that a sentence begins with; "Therefore" has more tokens than "The"."""
    asked = []
    monkeypatch.setattr("easyedit_personal.kernels.keys.sample", lambda *given, **_: asked.append(given[2:4]) or [])
    context_templates(llama, tokenizer, settings(), replace(HOST, sentences=((9, 5),)))
    ((starts, tokens),) = asked
    assert len(starts[0].ids) < len(starts[1].ids) and tokens == 9 - len(starts[0].ids)


def test_sentences_begin_alike_in_turn_and_are_drawn_from_the_five_likeliest_tokens(llama, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(keys, "HOST_STARTS", ("The", "Therefore we", "Because of that I"))
    monkeypatch.setattr(keys, "sample", lambda *given, **options: asked.append((*given[2:], options)) or [])
    context_templates(llama, tokenizer, settings(seed=5), replace(HOST, sentences=((9, 6), (1, 3), (9, 2))))
    (starts, tokens, options), (few, one, _) = asked  # two sentences are too few to begin with each of three words
    first, *_ = lengths = [len(start.ids) for start in starts]
    assert len(starts) == 6 and lengths == sorted(lengths) and len(set(lengths)) == 3 and len(few) == 3
    assert tokens == 9 - first and one == 1  # at least one token, however short the sentence
    assert options == {"seed": 5, "top_k": 5}


def test_a_context_may_fill_the_model_to_the_last_token(llama, tokenizer, monkeypatch):
    given = settings(context_templates=["Good. {}", "In the hills. {}"])
    rows = make_clusters(llama, tokenizer, [HOBBY], given, OURS)[0].rows[0]
    lengths = [len(row.ids) for row in rows]
    for limit, fitting in ((lengths[2], 3), (lengths[2] - 1, 2), (None, 3)):
        monkeypatch.setattr(keys, "context_limit", lambda model, limit=limit: limit)
        assert len(make_clusters(llama, tokenizer, [HOBBY], given, OURS)[0].rows[0]) == fitting
    assert lengths == sorted(lengths)


def test_some_8192_tokens_are_read_at_a_time_those_of_the_shared_beginning_not_counted(llama, tokenizer, monkeypatch):
    sizes = []
    monkeypatch.setattr(keys, "batched", lambda group, size: sizes.append(size) or batched(group, size))
    rows = [Encoded((5, 6, *range(7 + n, 10 + n)), (), 4) for n in range(3)]
    read(llama, tokenizer, find_layout(llama), rows, 1)
    read(llama, tokenizer, find_layout(llama), [Encoded((5,), (), 0)], 1)
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    read(llama, tokenizer, find_layout(llama), rows, 1)
    assert sizes == [8192 // 5, 8192, 8192 // 3]


def test_only_shared_beginnings_are_kept_as_keys_and_values_and_no_graph_is(llama, tokenizer, monkeypatch):
    cached = []
    look = lambda module, args, kwargs: cached.append((kwargs["use_cache"], torch.is_grad_enabled()))
    llama.register_forward_pre_hook(look, with_kwargs=True)
    rows = [Encoded((5, 6, *range(7 + n, 10 + n)), (), 4) for n in range(3)]
    seen = read(llama, tokenizer, find_layout(llama), rows, 1)
    assert cached == [(False, False)] and not seen.keys.requires_grad
    monkeypatch.setattr(shared_prefix, "SAVED", 1)
    read(llama, tokenizer, find_layout(llama), rows, 1)
    assert cached[1:] == [(True, False), (True, False)]  # the beginning, and what follows it
