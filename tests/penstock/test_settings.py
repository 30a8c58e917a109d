"""Settings become the data plane's."""

from pathlib import Path

from penstock.settings import Kubernetes, Listen, Settings

FOLDER = Path("/run/folder")


def test_our_own_envoy_reaches_the_picker_by_a_socket_of_the_run() -> None:
    assert Settings(Path("m")).plane(FOLDER).picker == "unix:/run/folder/picker.sock"


def test_other_envoys_reach_the_picker_where_it_is_told_to_be() -> None:
    assert Settings(Path("m"), picker="10.0.0.1:9002").plane(FOLDER).picker == "10.0.0.1:9002"


def test_nothing_is_open_to_the_network_unless_told() -> None:
    settings = Settings(Path("m"))
    assert settings.plane(FOLDER).socket(80) == ("127.0.0.1", 80)
    assert settings.proxy.admin.startswith("127.") and settings.telemetry.startswith("127.")


def test_a_listener_is_bound_where_told_and_the_others_keep_their_port() -> None:
    plane = Settings(Path("m"), listen=Listen("::", ((80, "127.0.0.1", 8080),))).plane(FOLDER)
    assert (plane.socket(80), plane.socket(443)) == (("127.0.0.1", 8080), ("::", 443))


def test_limits_reach_the_data_plane() -> None:
    plane = Settings(Path("m"), max_body=1024, picker_timeout=0.5).plane(FOLDER)
    assert (plane.max_body, plane.picker_timeout) == (1024, 0.5)


def test_clients_are_told_ids_only_where_that_is_switched_on() -> None:
    assert not Settings(Path("m")).plane(FOLDER).explain
    assert Settings(Path("m"), explain=True).plane(FOLDER).explain
    assert Settings(kubernetes=Kubernetes(), explain=True).plane(FOLDER).explain
