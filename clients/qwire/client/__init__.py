"""The client of qwire: generate text with Qwen models over gRPC, blocking (`Client`) or with asyncio (`AsyncClient`).

Example:
    from qwire.client import Client

    with Client("127.0.0.1:50051") as client:
        with client.stream("Write a haiku about rivers", temperature=0) as stream:
            for text in stream.text_stream:
                print(text, end="", flush=True)

`qwire.client.testing` has a server for the tests of your own program.
"""

from qwire.client.aio import AsyncClient
from qwire.client.aio_jobs import AsyncBatchJobs
from qwire.client.aio_stream import AsyncBatchStream, AsyncGenerationStream, AsyncHealthStream
from qwire.client.batch import BatchFinished, BatchResult
from qwire.client.batch_job import (
    BatchItemState,
    BatchJob,
    BatchJobItem,
    BatchJobState,
    BatchJobUsage,
    RejectedItem,
    Upload,
)
from qwire.client.channel import DEFAULT_TARGET
from qwire.client.errors import (
    AdapterNotFound,
    AdapterUnusable,
    Cancelled,
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    LimitExceeded,
    ModelChanged,
    ModelNotFound,
    NotFound,
    Overloaded,
    QwireError,
    ServerError,
    StreamBroken,
    StreamTruncated,
    Unavailable,
    Unsupported,
)
from qwire.client.generation_options import BatchItem, GenerationOptions, Priority
from qwire.client.health import Health, HealthCheck, HealthCheckKind, ModelHealth, Probe, ServingState
from qwire.client.jobs import BatchJobs
from qwire.client.model import (
    Adapter,
    Model,
    ModelCapabilities,
    ModelLimits,
    Quantization,
    QuantizationMethod,
    TokenCount,
)
from qwire.client.options import ClientOptions, KeepaliveOptions, ResumeOptions, RetryOptions, TLSOptions
from qwire.client.prompt import ChatMessage, Message, Prompt, Role, TextPrompt, TokenPrompt
from qwire.client.result import (
    Channel,
    Delta,
    Finished,
    FinishReason,
    Generation,
    PromptRead,
    StreamEvent,
    TokenAlternative,
    TokenInfo,
)
from qwire.client.resume_point import ResumePoint
from qwire.client.started import Sampling, Started, Stop
from qwire.client.stream import BatchStream, GenerationStream, HealthStream
from qwire.client.sync import Client
from qwire.client.tool import Tool, ToolCall, ToolCallFragment
from qwire.client.usage import Timings, Usage

__all__ = [
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
