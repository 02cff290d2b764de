"""Settings: which layer wins, what a project may do, and that a mistake is an error."""

from pathlib import Path
from typing import Any

import pytest

from hybrid.aio import from_config
from hybrid.client import Client
from hybrid.config import Config, load, offline_by_environment
from hybrid.errors import ConfigurationError
from hybrid.routing.budget import Budget
from hybrid.routing.policy import Mode
from hybrid.testing import FakeEngine


def loaded(
    tmp_path: Path, *, user: str = "", project: str = "", env: dict[str, str] | None = None, **flags: Any
) -> Config:
    (tmp_path / "config.toml").write_text(user)
    (tmp_path / "hybrid.toml").write_text(project)
    return load(flags, environ=env or {}, folder=tmp_path, user_file=tmp_path / "config.toml")


def test_without_files_everything_is_default(tmp_path: Path) -> None:
    assert load(environ={}, folder=tmp_path, user_file=tmp_path / "none.toml") == Config()


def test_later_layers_win_and_say_so(tmp_path: Path) -> None:
    user, project = 'model = "a"\npolicy = "auto"', 'model = "b"'
    assert loaded(tmp_path, user=user).model == "a"
    assert loaded(tmp_path, user=user, project=project).model == "b"
    assert loaded(tmp_path, user=user, project=project, env={"HYBRID_MODEL": "c"}).model == "c"
    config = loaded(tmp_path, user=user, project=project, env={"HYBRID_MODEL": "c"}, model="d")
    assert (config.model, config.origin["model"], config.origin["policy"]) == ("d", "flag", "user")


def test_a_project_may_tighten_and_never_widen(tmp_path: Path) -> None:
    assert loaded(tmp_path, project='policy = "only_on_device"').policy is Mode.ONLY_ON_DEVICE
    with pytest.raises(ConfigurationError, match="tighten"):
        loaded(tmp_path, project='policy = "only_private_cloud"')
    with pytest.raises(ConfigurationError, match="tighten"):
        loaded(tmp_path, user='policy = "only_on_device"', project='policy = "auto"')
    assert loaded(tmp_path, user="threshold = 0.8", project="threshold = 0.1").threshold == 0.8
    assert loaded(tmp_path, user="threshold = 0.8", project="threshold = 0.9").threshold == 0.9
    with pytest.raises(ConfigurationError, match="tighten"):  # the router's own may be higher
        loaded(tmp_path, project="threshold = 0.1")


@pytest.mark.parametrize(
    "line", ['node.address = "evil:1"', 'node.key = "k"', 'on_handoff = "always"', 'models = "/x"']
)
def test_a_project_may_not_redirect_data_or_answer_for_the_person(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match="project"):
        loaded(tmp_path, project=line)
    assert loaded(tmp_path, user=line)


def test_a_ceiling_of_the_user_yields_to_flag_and_environment_alone(tmp_path: Path) -> None:
    user = 'policy = "only_on_device"'
    assert loaded(tmp_path, user=user, env={"HYBRID_POLICY": "auto"}).policy is Mode.AUTO
    assert loaded(tmp_path, user=user, policy="auto").policy is Mode.AUTO


def test_offline_from_any_layer_suffices_and_none_undoes_it(tmp_path: Path) -> None:
    assert loaded(tmp_path, project="offline = true").offline
    assert loaded(tmp_path, user="offline = true", project="offline = false").offline
    assert loaded(tmp_path, user="offline = true", env={"HYBRID_OFFLINE": "0"}).offline
    assert loaded(tmp_path, env={"HYBRID_OFFLINE": "1"}, offline=False).offline


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('modle = "a"', "model"),
        ('polcy = "auto"', "policy"),
        ('policy = "atuo"', "auto"),
        ('node.adress = "a:1"', "node.address"),
        ('on_handoff = "allways"', "always"),
    ],
)
def test_a_mistake_is_an_error_with_the_nearest_word(tmp_path: Path, line: str, names: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, user=line)
    assert names in caught.value.hint


@pytest.mark.parametrize("line", ["model = 3", 'threshold = "high"', "threshold = true", "timeout = -1", "model = ["])
def test_a_value_of_the_wrong_kind_names_its_place(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.toml"):
        loaded(tmp_path, user=line)


def test_a_misspelt_variable_is_an_error_and_a_foreign_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, env={"HYBRID_MODLE": "a"})
    assert "HYBRID_MODEL" in caught.value.hint
    assert loaded(tmp_path, env={"HYBRID_CAR_RENTAL": "a"}) == loaded(tmp_path)


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    assert "kkk" not in repr(loaded(tmp_path, env={"HYBRID_NODE_KEY": "kkk"}))


def test_a_client_reads_no_environment_but_the_offline_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_POLICY", "only_private_cloud")
    monkeypatch.setenv("HYBRID_MODEL", "nothing-of-that-name")
    with Client(engine=FakeEngine(["here"])) as client:
        assert client.ask("hi").text == "here"


def test_from_env_reads_it_and_arguments_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HYBRID_POLICY", "only_private_cloud")
    with Client.from_env(engine=FakeEngine(["here"]), policy="auto") as client:
        assert client.ask("hi").text == "here"
    given = from_config(
        load(environ={"HYBRID_POLICY": "prefer_on_device"}, folder=tmp_path, user_file=tmp_path / "n"), {}
    )
    assert given["policy"] is Mode.PREFER_ON_DEVICE


@pytest.mark.parametrize(("value", "on"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_offline_variable(value: str, on: bool) -> None:
    assert offline_by_environment({"HYBRID_OFFLINE": value}) is on


def test_an_unreadable_offline_variable_is_an_error_and_never_off() -> None:
    with pytest.raises(ConfigurationError):
        offline_by_environment({"HYBRID_OFFLINE": "maybe"})


def test_a_project_may_only_tighten_what_the_router_does(tmp_path: Path) -> None:
    tight = 'detect = "strict"\ncascade = "off"\ndecisions = "off"\ndeny = ["Falcon"]\nbudget = 0.1'
    config = loaded(
        tmp_path, user='deny = ["Osprey"]\nbudget = 0.3', project=tight, env={"HYBRID_DENY": "Kite, Merlin"}
    )
    assert (config.detect, config.cascade, config.decisions, config.budget) == ("strict", "off", "off", 0.1)
    assert config.deny == ("Osprey", "Falcon", "Kite", "Merlin")
    assert loaded(tmp_path, user="budget = 0.1", project="budget = 0.9").budget == 0.1


@pytest.mark.parametrize(
    ("user", "project"),
    [
        ("", 'detect = "off"'),
        ('detect = "strict"', 'detect = "standard"'),
        ('cascade = "off"', 'cascade = "auto"'),
        ('decisions = "off"', 'decisions = "keep"'),
        ("", 'learn = "keep"'),
        ("", "explore = 0.01"),
    ],
)
def test_a_project_may_not_loosen_what_the_router_does(tmp_path: Path, user: str, project: str) -> None:
    with pytest.raises(ConfigurationError, match="project"):
        loaded(tmp_path, user=user, project=project)
    assert loaded(tmp_path, user=project)


@pytest.mark.parametrize(
    "line", ["budget = 1.5", "explore = 0.5", "deny = [3]", 'cascade = "maybe"', 'detect = "none"']
)
def test_settings_of_the_router_that_mean_nothing_are_errors(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError):
        loaded(tmp_path, user=line)


@pytest.mark.parametrize(
    "given",
    [{"cascade": "maybe"}, {"detect": "none"}, {"deny": "one word"}, {"deny": [""]}, {"budget": 2}, {"explore": 0.03},
     {"decisions": "all"}, {"learn": True}],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_a_client_refuses_what_means_nothing_to_its_router(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Client(engine=FakeEngine(), **given)


def test_a_budget_is_a_share_or_money_a_month(tmp_path: Path) -> None:
    assert loaded(tmp_path, user="budget = 0.2").budget == 0.2
    monthly = loaded(tmp_path, user='budget = "20/month"\nprice = 0.01')
    assert monthly.budget == Budget(money_per_month=20.0)
    lower = loaded(tmp_path, user='budget = "20/month"', project='budget = "30 / month"')
    assert lower.budget == Budget(money_per_month=20.0)
    with pytest.raises(ConfigurationError, match="only one can hold"):
        loaded(tmp_path, user='budget = "20/month"', project="budget = 0.1")


@pytest.mark.parametrize("value", ['"20/year"', '"/month"', '"-1/month"', '"nan/month"', '"20/month or so"', "2"])
def test_a_budget_that_means_nothing_names_its_place(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError, match="budget"):
        loaded(tmp_path, user=f"budget = {value}")


def test_a_budget_of_money_without_a_price_is_told_with_who_set_it(tmp_path: Path) -> None:
    settings = loaded(tmp_path, project='budget = "20/month"')
    with pytest.raises(ConfigurationError, match=r"set by hybrid\.toml in this folder\) needs a price"):
        from_config(settings, {})
    assert from_config(settings, {"price": 0.01})["price"] == 0.01


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("deny = " + "[" * 5_000, "nested too deeply"),
        (".".join("a" * 5_000) + " = 1", "nested too deeply"),
        ("threshold = " + "9" * 400, "beyond all bounds"),
    ],
)
def test_settings_without_measure_are_refused_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        loaded(tmp_path, project=text)
    assert "hybrid.toml" in str(caught.value)


def test_a_budget_of_money_needs_a_price() -> None:
    with pytest.raises(ConfigurationError, match="price"):
        Client(engine=FakeEngine(), budget=Budget(money_per_month=5.0))
    Client(engine=FakeEngine(), budget=Budget(money_per_month=5.0), price=0.01).close()
