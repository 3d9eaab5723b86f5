"""Converters, each on a tiny file made here; and on the real files where they lie."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.datasets import DATASETS, convert, data_root, dataset, load_table
from thinkroute.evaluation.outcomes import write_outcomes
from thinkroute.routers import OutcomeTable


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    raw = text.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)


def llmrouter(folder: Path) -> None:
    put(
        folder,
        "routing_train.csv.gz",
        "source_split,task_name,metric,question,ground_truth,choices,task_id,cluster_id,small,large\n"
        'train,gsm8k,GSM8K,"Two\nlines?",None,,,0,0.5,1.0\n'
        "train,mmlu,em_mc,NA,A,,,1,,0.25\n",
    )
    put(
        folder,
        "llm_candidates.json",
        '{"small": {"input_price": 0.2, "output_price": 0.4}, "large": {"input_price": 1, "output_price": 2}}',
    )


def routerbench(folder: Path) -> None:
    put(
        folder,
        "routerbench_0shot_3task_train.csv.gz",
        "sample_id,eval_name,prompt,query,gpt,gpt|total_cost,yi,yi|total_cost,oracle_model_to_route_to\n"
        "mbpp.1,mbpp,['x'],Write it,1.0,0.02,,0.001,gpt\n"
        "mbpp.1,mbpp,['x'],Write it again,0.0,0.03,1.0,0.002,yi\n",
    )


def routerdc(folder: Path) -> None:
    put(
        folder,
        "routerdc_train.csv.gz",
        "dataset,score_kind,question,cluster_id,one,two\n"
        "mmlu_test_dev30,probability,Which?,,0.31,0.0\n"
        "gsm8k-train,pass_rate,How many?,3,0.9,0.0\n",
    )


def routellm_mmlu(folder: Path) -> None:
    put(
        folder,
        "mmlu_gpt4_vs_mixtral.csv.gz",
        "domain,prompt,mistralai/Mixtral-8x7B-Instruct-v0.1,gpt-4-1106-preview\n"
        "anatomy,12345678,False,True\n"
        "law,abcd,True,\n",
    )


def routellm_mtbench(folder: Path) -> None:
    put(
        folder,
        "mtbench_gpt4_vs_mixtral_judgements.csv.gz",
        "question_id,category,turn,turn_prompt,model,score,judgment\n"
        "81,writing,1,Write,gpt-4-1106-preview,10.0,fine\n"
        "81,writing,1,Write,mistralai/Mixtral-8x7B-Instruct-v0.1,5.5,fair\n"
        "81,writing,2,Rewrite,gpt-4-1106-preview,1.0,bad\n",
    )


def routerarena(folder: Path) -> None:
    put(
        folder,
        "routerarena_sub10_sample.csv.gz",
        "global_index,dataset,question,model,generated_answer,ground_truth,metric,score,inference_cost,input_tokens,output_tokens\n"
        "AIME_1,AIME,Find x,haiku,..,7,math,0.0,0.0002,100,50\n"
        "AIME_1,AIME,Find x,flash,..,7,math,1.0,0.0001,90,40\n",
    )


def bigmath(folder: Path) -> None:
    put(
        folder,
        "bigmath_solverate.csv.gz",
        'instruction,response,solve_rate,difficulty_tier,source,domain\n1+1?,2,0.984375,easy,orca_math,"[""x""]"\n',
    )


def gsm8k_anytime(folder: Path) -> None:
    put(
        folder,
        "preds_main_adapter.jsonl",
        '{"uid": "g1", "t": 1, "max_new_tokens": 4, "problem": "p", "raw_text": "a b c d e", "correct": 0}\n'
        '{"uid": "g1", "t": 2, "max_new_tokens": 96, "problem": "p", "raw_text": "so 7\\nCONF: 0.8", "correct": 1}\n',
    )


MAKERS: dict[str, Callable[[Path], None]] = {
    "llmrouter-9llm": llmrouter,
    "routerbench-11llm": routerbench,
    "routerdc-7llm": routerdc,
    "routellm-mmlu": routellm_mmlu,
    "routellm-mtbench": routellm_mtbench,
    "routerarena-sub10": routerarena,
    "bigmath-solverate": bigmath,
    "gsm8k-anytime-4budget": gsm8k_anytime,
}


def converted(name: str, tmp_path: Path) -> OutcomeTable:
    MAKERS[name](tmp_path / name)
    return convert(name, tmp_path / name)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    table = converted(name, tmp_path)
    assert set(table.notes) >= {"source", "licence", "cost_basis"}
    assert table.notes["cost_basis"] in ("measured", "proxy", "none")
    assert ("cost_usd" in table.measures) == (table.notes["cost_basis"] != "none")


def test_llmrouter_prices_a_proxy_and_keeps_the_texts_none_and_na(tmp_path: Path) -> None:
    table = converted("llmrouter-9llm", tmp_path)
    assert table.arms == ("small", "large")
    assert table.texts == ("Two\nlines?", "NA")
    assert table.tasks == ("gsm8k", "mmlu")
    np.testing.assert_array_equal(table.quality_QA, [[0.5, 1.0], [np.nan, 0.25]])
    assert table.cost_usd_QA is not None
    assert table.cost_usd_QA[0, 1] == pytest.approx((10 / 4 * 1 + 200 * 2) / 1e6)


def test_llmrouter_refuses_a_model_without_a_price(tmp_path: Path) -> None:
    llmrouter(tmp_path)
    put(tmp_path, "llm_candidates.json", '{"small": {"input_price": 0.2, "output_price": 0.4}}')
    with pytest.raises(DataError, match="no price for 'large'"):
        convert("llmrouter-9llm", tmp_path)


def test_routerbench_keeps_measured_dollars_missing_scores_and_repeated_samples(tmp_path: Path) -> None:
    table = converted("routerbench-11llm", tmp_path)
    assert table.query_ids == ("mbpp.1", "mbpp.1#2")
    np.testing.assert_array_equal(table.quality_QA, [[1.0, np.nan], [0.0, 1.0]])
    np.testing.assert_array_equal(table.measured["cost_usd"], [[0.02, 0.001], [0.03, 0.002]])


def test_routerbench_reads_the_files_as_published(tmp_path: Path) -> None:
    header = ",sample_id,prompt,eval_name,gpt,gpt|model_response,gpt|total_cost,oracle_model_to_route_to\n"
    for number, part in enumerate(("arc_challenge", "mbpp", "winograde")):
        row = f"0,{part}.{number},\"['First line', 'it''s']\",{part},1.0,yes,0.5,gpt\n".replace("''", "\\'")
        put(tmp_path, f"{part}_train.csv", header + row)
    table = convert("routerbench-11llm", tmp_path)
    assert len(table) == 3
    assert table.texts[0] == "First line\nit's"


def test_routerdc_reads_probabilities_as_right_or_wrong_and_shares_as_they_are(tmp_path: Path) -> None:
    table = converted("routerdc-7llm", tmp_path)
    np.testing.assert_array_equal(table.quality_QA, [[1.0, 0.0], [0.9, 0.0]])
    assert table.tasks == ("mmlu", "gsm8k")


def test_routerdc_refuses_a_score_it_does_not_know(tmp_path: Path) -> None:
    put(tmp_path, "routerdc_train.csv.gz", "dataset,score_kind,question,cluster_id,one\nx,elo,Which?,,0.3\n")
    with pytest.raises(DataError, match="row 1: column 'score_kind' is 'elo'"):
        convert("routerdc-7llm", tmp_path)


def test_routellm_reads_true_and_false_and_prices_by_length(tmp_path: Path) -> None:
    table = converted("routellm-mmlu", tmp_path)
    assert table.arms[0] == "gpt-4-1106-preview"
    np.testing.assert_array_equal(table.quality_QA, [[1.0, 0.0], [np.nan, 1.0]])
    assert table.cost_usd_QA is not None
    assert table.cost_usd_QA[0, 0] == pytest.approx(24.7 * 2 / 1e6)


def test_mtbench_grades_become_qualities_and_turns_become_queries(tmp_path: Path) -> None:
    table = converted("routellm-mtbench", tmp_path)
    np.testing.assert_array_equal(table.quality_QA, [[1.0, 0.5], [0.0, np.nan]])
    assert table.texts == ("Write", "Rewrite")


def test_routerarena_keeps_dollars_and_tokens(tmp_path: Path) -> None:
    table = converted("routerarena-sub10", tmp_path)
    assert table.measures == ("quality", "prompt_tokens", "answer_tokens", "cost_usd")
    assert table.measured["answer_tokens"].tolist() == [[50, 40]]
    assert "forbids training" in table.notes["use"]


def test_solve_rates_are_the_quality_of_one_arm(tmp_path: Path) -> None:
    table = converted("bigmath-solverate", tmp_path)
    assert table.arms == ("llama-3.1-8b",)
    assert table.quality_QA.tolist() == [[0.984375]]


def test_budgets_are_arms_and_cut_answers_are_marked(tmp_path: Path) -> None:
    table = converted("gsm8k-anytime-4budget", tmp_path)
    assert table.arms == ("gsm8k-adapter@budget=4", "gsm8k-adapter@budget=96")
    assert table.finish_QA is not None
    assert table.finish_QA.tolist() == [["length", "stop"]]
    assert table.measured["answer_tokens"].tolist() == [[4, round(4 * 1.3)]]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("source_split,task_name\ntrain,x\n", "is missing"),
        ("a,b\n1,2,3\n", "another number of fields"),
    ],
)
def test_damaged_files_are_named_with_the_row(tmp_path: Path, damage: str, words: str) -> None:
    llmrouter(tmp_path)
    put(tmp_path, "routing_train.csv.gz", damage)
    with pytest.raises(DataError, match=words) as caught:
        convert("llmrouter-9llm", tmp_path)
    assert "routing_train.csv.gz" in str(caught.value)


def test_a_wrong_number_is_named_with_row_and_column(tmp_path: Path) -> None:
    put(tmp_path, "bigmath_solverate.csv.gz", "instruction,solve_rate,source\n1+1?,often,x\n")
    with pytest.raises(DataError, match="row 1: column 'solve_rate' is 'often', not a number"):
        convert("bigmath-solverate", tmp_path)


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    bigmath(tmp_path)
    path = tmp_path / "bigmath_solverate.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="not readable"):
        convert("bigmath-solverate", tmp_path)


def test_names_and_folders_that_do_not_exist_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="llmrouter-9llm"):
        dataset("llmrouter")
    with pytest.raises(DataError, match="thinkroute data fetch routerbench-11llm"):
        convert("routerbench-11llm", tmp_path / "absent")
    with pytest.raises(DataError, match="put its files there"):
        convert("routerdc-7llm", tmp_path / "absent")
    monkeypatch.delenv("THINKROUTE_DATA", raising=False)
    with pytest.raises(DataError, match="THINKROUTE_DATA"):
        load_table("routerdc-7llm")
    monkeypatch.setenv("THINKROUTE_DATA", str(tmp_path))
    assert data_root(None) == tmp_path


def test_a_table_is_loaded_by_name_or_by_file(tmp_path: Path) -> None:
    bigmath(tmp_path / "bigmath-solverate")
    by_name = load_table("bigmath-solverate", tmp_path)
    write_outcomes(by_name, tmp_path / "own.parquet")
    assert load_table(str(tmp_path / "own.parquet")).digest() == by_name.digest()


REAL = {
    "llmrouter-9llm": (3677, 9, 0, 0.4429),
    "routerbench-11llm": (2223, 11, 92, 0.6748),
    "routerdc-7llm": (11140, 7, 0, 0.5812),
    "routellm-mmlu": (8463, 2, 0, 0.7819),
    "routellm-mtbench": (160, 2, 0, 0.8649),
    "routerarena-sub10": (206, 2, 0, 0.6119),
    "bigmath-solverate": (7746, 1, 0, 0.6599),
    "gsm8k-anytime-4budget": (1044, 4, 0, 0.6856),
}


@pytest.mark.parametrize("name", DATASETS)
def test_the_real_files_convert_to_their_known_counts_and_means(name: str) -> None:
    root = Path(os.environ.get("THINKROUTE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"data set {name} is not here: set THINKROUTE_DATA to the directory that holds it")
    table = convert(name, root / name)
    rows, arms, missing, mean = REAL[name]
    assert (len(table), len(table.arms), int(np.isnan(table.quality_QA).sum())) == (rows, arms, missing)
    assert np.nanmean(table.quality_QA) == pytest.approx(mean, abs=0.0005)
