from pathlib import Path

import pytest

from slackwater.runtime import config
from slackwater.runtime.config import (
    BaseServiceConfig,
    PrimaryConfig,
    SecondaryConfig,
    SnapshotConfig,
)

MODELS: list[type[BaseServiceConfig]] = [PrimaryConfig, SecondaryConfig, SnapshotConfig]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("SLACKWATER_")]:
        monkeypatch.delenv(name)


def primary(*argv: str) -> PrimaryConfig:
    return config.parse_arguments(PrimaryConfig, ["--data-dir", "d", *argv])


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        primary(*argv)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_defaults_are_the_documented_ports_on_loopback() -> None:
    ports = [
        (c.listen, c.health_listen, c.metrics_listen)
        for c in (config.parse_arguments(model, ["--data-dir", "d"]) for model in MODELS)
    ]
    assert ports == [
        ("127.0.0.1:7460", "127.0.0.1:7480", "127.0.0.1:9460"),
        ("127.0.0.1:7461", "127.0.0.1:7481", "127.0.0.1:9461"),
        ("127.0.0.1:7462", "127.0.0.1:7482", "127.0.0.1:9462"),
    ]
    assert primary().nbd_listen == "127.0.0.1:10809"


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.toml"
    file.write_text('log_level = "error"\nmax_calls = 3\nsender_processes = 2\n')
    monkeypatch.setenv("SLACKWATER_CONFIG", str(file))
    monkeypatch.setenv("SLACKWATER_LOG_LEVEL", "warning")
    monkeypatch.setenv("SLACKWATER_MAX_CALLS", "4")
    made = primary("--max-calls", "5")
    assert (made.max_calls, made.log_level, made.sender_processes) == (5, "warning", 2)
    assert made.grace_seconds == 20


def test_sizes_may_carry_a_unit() -> None:
    assert primary("--log-bytes", "2GiB").log_bytes == 2 << 30


def test_missing_data_dir_names_all_three_ways_to_give_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        config.parse_arguments(PrimaryConfig, [])
    assert ended.value.code == 2
    sentence = capsys.readouterr().err
    assert "--data-dir (SLACKWATER_DATA_DIR, or data_dir in the --config file)" in sentence


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("--listen", "7460"), "--listen"),
        (("--listen", "127.0.0.1:99999"), "--listen"),
        (("--listen", "::1:7460"), "brackets"),
        (("--log-bytes", "many"), "--log-bytes"),
        (("--log-bytes", "1MiB"), "--log-bytes"),
        (("--segment-bytes", "256MiB"), "eighth"),
        (("--grace-seconds", "0"), "--grace-seconds"),
        (("--log-format", "xml"), "--log-format"),
        (("--sender-processes", "0"), "--sender-processes"),
        (("--no-such-flag", "1"), "--no-such-flag"),
        (("--config", "/nonexistent/p.toml"), "--config"),
        (("--tls-cert", "c.pem"), "--tls-key"),
    ],
)
def test_bad_setting_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], word: str
) -> None:
    assert word in refused(capsys, *argv)


def test_socket_path_longer_than_a_socket_may_have_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    longest = "/" + (config.UNIX_PATH_BYTES - 1) * "s"
    assert primary("--nbd-socket", longest).nbd_socket == Path(longest)
    assert "--nbd-socket" in refused(capsys, "--nbd-socket", longest + "s")


def test_unknown_key_in_the_file_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.toml").write_text("lisen = '127.0.0.1:1'\n")
    assert "lisen: there is no such setting" in refused(
        capsys, "--config", str(tmp_path / "p.toml")
    )


def test_file_that_is_no_toml_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.toml").write_text("listen: no\n")
    assert "p.toml" in refused(capsys, "--config", str(tmp_path / "p.toml"))


class TestExposure:
    @pytest.mark.parametrize("flag", ["--listen", "--nbd-listen"])
    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "host.example"])
    def test_plaintext_beyond_loopback_is_refused(
        self, capsys: pytest.CaptureFixture[str], flag: str, host: str
    ) -> None:
        sentence = refused(capsys, flag, f"{host}:1")
        assert flag in sentence
        assert "--insecure" in sentence

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
    def test_plaintext_on_loopback_is_fine(self, host: str) -> None:
        assert primary("--listen", f"{host}:1").listen == f"{host}:1"

    def test_insecure_allows_plaintext_anywhere(self) -> None:
        assert primary("--listen", "0.0.0.0:1", "--insecure").insecure

    def test_tls_allows_any_address(self) -> None:
        files = ["--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"]
        made = primary("--listen", "0.0.0.0:1", *files)
        assert made.tls is not None
        assert made.tls.authority == Path("a")

    def test_health_and_metrics_may_be_plaintext_anywhere(self) -> None:
        made = primary("--health-listen", "0.0.0.0:1", "--metrics-listen", "0.0.0.0:2")
        assert made.health_listen == "0.0.0.0:1"
