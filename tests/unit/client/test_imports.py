"""What `import qwire.client` loads, and what it offers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module

import qwire.client
import qwire.client.testing


def _modules_loaded_by(statement: str) -> set[str]:
    tell = "print(json.dumps(sorted(set(sys.modules) - before)))"
    script = f"import sys, json; before = set(sys.modules); {statement}; {tell}"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def _strangers(modules: Iterable[str], known: set[str]) -> set[str]:
    roots = {module.partition(".")[0] for module in modules}
    return {root for root in roots if root not in sys.stdlib_module_names and root not in known and root[0] != "_"}


def test_the_client_loads_grpc_and_protobuf_and_nothing_else() -> None:
    modules = _modules_loaded_by("import qwire.client")
    # grpc itself looks for its companions grpc_health, grpc_reflection and grpc_tools, and loads what is installed.
    others = {module for module in modules if not module.startswith(("grpc", "cython_runtime"))}
    assert _strangers(others, {"google", "qwire", "typing_extensions"}) == set()
    assert {".".join(name.split(".")[:2]) for name in modules if name.startswith("google.")} == {
        "google._upb",  # protobuf's own
        "google.protobuf",
        "google.rpc",
    }


def test_of_ours_the_client_loads_only_itself_and_the_contract() -> None:
    modules = _modules_loaded_by("import qwire.client, qwire.client.testing")
    rooms = {".".join(module.split(".")[:2]) for module in modules if module.startswith("qwire.")}
    assert rooms == {"qwire.client", "qwire.v1"}


def test_the_fake_server_is_loaded_only_on_demand() -> None:
    assert not {module for module in _modules_loaded_by("import qwire.client") if "testing" in module}


def test_exported_names() -> None:
    """A name that leaves this list breaks somebody's program."""
    assert sorted(qwire.client.__all__) == sorted(
        [
            "DEFAULT_TARGET",
            "Adapter",
            "AdapterNotFound",
            "AdapterUnusable",
            "AsyncBatchJobs",
            "AsyncBatchStream",
            "AsyncClient",
            "AsyncGenerationStream",
            "AsyncHealthStream",
            "BatchFinished",
            "BatchItem",
            "BatchItemState",
            "BatchJob",
            "BatchJobItem",
            "BatchJobState",
            "BatchJobUsage",
            "BatchJobs",
            "BatchResult",
            "BatchStream",
            "Cancelled",
            "Channel",
            "ChatMessage",
            "Client",
            "ClientOptions",
            "Conflict",
            "ContextLengthExceeded",
            "DeadlineExceeded",
            "Delta",
            "FieldViolation",
            "FinishReason",
            "Finished",
            "Generation",
            "GenerationOptions",
            "GenerationStream",
            "Health",
            "HealthCheck",
            "HealthCheckKind",
            "HealthStream",
            "InvalidRequest",
            "KeepaliveOptions",
            "LimitExceeded",
            "Message",
            "Model",
            "ModelCapabilities",
            "ModelChanged",
            "ModelHealth",
            "ModelLimits",
            "ModelNotFound",
            "NotFound",
            "Overloaded",
            "Priority",
            "Probe",
            "Prompt",
            "PromptRead",
            "Quantization",
            "QuantizationMethod",
            "QwireError",
            "RejectedItem",
            "ResumeOptions",
            "ResumePoint",
            "RetryOptions",
            "Role",
            "Sampling",
            "ServerError",
            "ServingState",
            "Started",
            "Stop",
            "StreamBroken",
            "StreamEvent",
            "StreamTruncated",
            "TLSOptions",
            "TextPrompt",
            "Timings",
            "TokenAlternative",
            "TokenCount",
            "TokenInfo",
            "TokenPrompt",
            "Tool",
            "ToolCall",
            "ToolCallFragment",
            "Unavailable",
            "Unsupported",
            "Upload",
            "Usage",
        ]
    )
    assert sorted(qwire.client.testing.__all__) == ["Answer", "Failure", "FakeServer", "RecordedCall"]


def test_every_exported_name_is_there_and_every_public_class_is_exported() -> None:
    assert [name for name in qwire.client.__all__ if not hasattr(qwire.client, name)] == []
    for module_name in (
        "batch",
        "errors",
        "generation_options",
        "health",
        "model",
        "options",
        "prompt",
        "result",
        "started",
        "usage",
    ):
        module = import_module(f"qwire.client.{module_name}")
        public = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
        }
        assert public <= set(qwire.client.__all__), module_name
