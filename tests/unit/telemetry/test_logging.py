import asyncio
import json
import logging
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from structlog.contextvars import bound_contextvars

from qwire.telemetry.logging import configure_logging, get_logger
from tests.support.log_lines import collected_log_lines

log = get_logger("qwire.test")


def test_a_line_is_one_json_object_with_time_level_and_event_first():
    with collected_log_lines() as lines:
        log.info("model_loaded", model="m", seconds=1.5, path="a\nb", nothing=None)
    line = lines.all()[0]
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
    assert (line["level"], line["event"], line["logger"]) == ("info", "model_loaded", "qwire.test")
    assert line["timestamp"].endswith("+00:00")
    assert (line["path"], line["nothing"], line["seconds"]) == ("a\nb", None, 1.5)


def test_a_line_carries_the_ids_of_its_request_and_span():
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    with collected_log_lines() as lines, trace.use_span(span), bound_contextvars(request_id="r-1"):
        log.info("inside")
        logging.getLogger("library").warning("from a %s", "library")
    log.info("outside")
    ours, theirs = lines.all()
    expected = {
        "request_id": "r-1",
        "trace_id": trace.format_trace_id(span.get_span_context().trace_id),
        "span_id": trace.format_span_id(span.get_span_context().span_id),
    }
    assert expected.items() <= ours.items()
    assert expected.items() <= theirs.items()
    assert theirs["event"] == "from a library"


async def test_concurrent_tasks_do_not_see_each_others_ids():
    async def request(name: str) -> None:
        with bound_contextvars(request_id=name):
            await asyncio.sleep(0)
            log.info("turn", name=name)

    with collected_log_lines() as lines:
        await asyncio.gather(*(request(f"r-{number}") for number in range(20)))
        log.info("after")
    assert all(line["request_id"] == line["name"] for line in lines.of("turn"))
    assert "request_id" not in lines.of("after")[0]


def test_text_is_replaced_by_its_length_at_any_depth():
    with collected_log_lines() as lines:
        log.info("seen", prompt="CANARY", output_text="CANARY", prompt_tokens=7, spec={"messages": ["CANARY", "b"]})
        log.info("seen", batch=[{"content": "CANARY", "token_ids": (1, 2, 3)}])
    assert "CANARY" not in lines.stream.getvalue()
    first, second = lines.all()
    assert (first["prompt_length"], first["output_text_length"], first["prompt_tokens"]) == (6, 6, 7)
    assert first["spec"] == {"messages_length": 2}
    assert second["batch"] == [{"content_length": 6, "token_ids_length": 3}]


def fail_with(text: str) -> None:
    """A traceback quotes this source, which must not hold what the exception says."""
    try:
        {}[text]
    except KeyError as error:
        raise ValueError(text) from error


@pytest.mark.parametrize("logger", [log, logging.getLogger("library")])
def test_on_a_request_an_exception_tells_where_and_what_kind_but_not_what_it_says(logger: logging.Logger):
    with collected_log_lines() as lines, bound_contextvars(request_id="r-1"):
        try:
            fail_with("CAN" + "ARY")
        except ValueError:
            logger.exception("call_failed")
    assert "CANARY" not in lines.stream.getvalue()
    exception = lines.of("call_failed")[0]["exception"]
    assert "in fail_with" in exception
    cause, effect = "builtins.KeyError: [8 characters withheld]", "builtins.ValueError: [6 characters withheld]"
    assert exception.index(cause) < exception.index(effect)


def test_outside_of_requests_an_exception_is_told_in_full():
    with collected_log_lines() as lines:
        try:
            fail_with("no such file")
        except ValueError as error:
            log.warning("start_failed", exc_info=error)
    assert lines.of("start_failed")[0]["exception"].endswith("ValueError: no such file")


def test_what_is_no_json_is_told_all_the_same():
    with collected_log_lines() as lines:
        log.info(
            "odd", ratio=float("nan"), bound=float("inf"), items=[float("-inf")], thing=object, name="n", args=(1,)
        )
    line = lines.all()[0]
    assert (line["ratio"], line["bound"], line["items"]) == ("nan", "inf", ["-inf"])
    assert (line["thing"], line["name"], line["args"]) == ("<class 'object'>", "n", [1])


def test_levels_apply_to_our_lines_and_libraries_begin_at_warning():
    with collected_log_lines("DEBUG") as lines:
        log.debug("ours")
        logging.getLogger("library").info("theirs")
        logging.getLogger("library").warning("theirs, grave")
    assert [line["event"] for line in lines.all()] == ["ours", "theirs, grave"]
    with collected_log_lines("ERROR") as lines:
        log.warning("ours")
        logging.getLogger("library").warning("theirs")
        log.error("ours, grave")
    assert [line["event"] for line in lines.all()] == ["ours, grave"]


def test_console_lines_are_for_people():
    with collected_log_lines(log_format="console") as lines:
        log.info("model_loaded", model="m", prompt="CANARY")
    text = lines.stream.getvalue()
    assert "model_loaded" in text
    assert "model=m" in text
    assert "CANARY" not in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_configuring_again_replaces_the_earlier_settings():
    with collected_log_lines() as lines:
        configure_logging("INFO", "json", lines.stream)
        configure_logging("INFO", "json", lines.stream)
        log.info("once")
    assert len(lines.all()) == 1


def test_an_absent_collector_is_told_of_once_a_minute():
    exporter = logging.getLogger("opentelemetry.exporter.test")
    with collected_log_lines() as lines:
        for attempt in range(50):
            exporter.warning("attempt %s failed", attempt)
        log.warning("ours")
    assert [line["event"] for line in lines.all()] == ["attempt 0 failed", "ours"]


def test_unconfigured_loggers_speak_through_python_logging(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        log.info("model_loaded", model="m", prompt="CANARY")
    assert caplog.messages == ["model_loaded model='m' prompt_length=6"]


def test_threads_can_log():
    with collected_log_lines() as lines:
        threads = [threading.Thread(target=log.info, args=("step",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(lines.of("step")) == 8
