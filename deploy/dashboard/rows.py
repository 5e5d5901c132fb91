"""Which panels there are, what each asks, and what its answer means."""

from __future__ import annotations

from deploy.dashboard.panels import Panel, Query, heatmap, lines, number, table
from deploy.dashboard.promql import (
    JOB,
    OURS,
    PARTS_OF_AN_ANSWER,
    PROCESS,
    QUANTILES,
    buckets,
    quantile,
    quantiles,
    rate,
)

_FAILED = 'status=~"5..", status!="503"'
_BUSY = 'reason="Busy"'
_HALF = 'le="0.5"'

OVERVIEW: tuple[Panel, ...] = (
    number(
        "Instances up",
        "Services whose metrics Prometheus can read. Fewer than you started: see TlserveDown.",
        "short",
        Query(f"sum(up{{{PROCESS}}})"),
    ),
    number(
        "Requests",
        "Requests for predictions a second, problems included.",
        "reqps",
        Query(f"sum({rate('tlserve_request_seconds_count')})"),
    ),
    number(
        "Latency, p99",
        "From a request's headers to its answer, as the service sees it: the network is not in it.",
        "s",
        Query(quantile(0.99, "tlserve_request_seconds")),
        limits=(1, 5),
    ),
    number(
        "Errors",
        "Answers with 5xx other than 503, as a share of the requests. Should be 0: see "
        "TlserveErrors.",
        "percentunit",
        Query(
            f"(sum({rate('tlserve_requests_total', _FAILED)}) "
            f"or vector(0)) / sum({rate('tlserve_request_seconds_count')})"
        ),
        limits=(0.001, 0.01),
    ),
    number(
        "Refused: busy",
        "Share of the requests that got 503 because too much waited. See TlserveRefuses.",
        "percentunit",
        Query(
            f"(sum({rate('tlserve_rejected_total', _BUSY)}) "
            f"or vector(0)) / sum({rate('tlserve_request_seconds_count')})"
        ),
        limits=(0.001, 0.05),
    ),
    number(
        "Limited by",
        "What would have to be faster for the service to answer more: decode, model, or nothing "
        "(idle). See 'What limits it' in docs/observability.md.",
        "short",
        Query(f"max by (by) (tlserve_bound{{{OURS}}} == 1)", "{{by}}"),
        name=True,
    ),
    table(
        "What is served",
        "Two versions at once are normal during a roll-out, and a mistake after it.",
        Query(f"tlserve_model_info{{{OURS}}}"),
        "job",
    ),
    table(
        "Alerts",
        "What fires or is about to. The runbook of each is on Prometheus's page of alerts.",
        Query(f'ALERTS{{alertname=~"Tlserve.*", {OURS}}}'),
        "job",
    ),
)

TRAFFIC: tuple[Panel, ...] = (
    lines(
        "Requests by face and status",
        "A face is the first part of the path. The health check counts as v2, Prometheus as "
        "metrics.",
        "reqps",
        Query(f"sum by (face, status) ({rate('tlserve_requests_total')})", "{{face}} {{status}}"),
    ),
    lines(
        "Refusals and problems by reason",
        "Names of docs/http.md. Busy and Timeout are the service's, TooManyRequests and "
        "Unauthorized the rules', the others the clients': a client that was changed shows here.",
        "reqps",
        Query(f"sum by (reason) ({rate('tlserve_rejected_total')})", "{{reason}}"),
        Query(f"sum by (reason) ({rate('tlserve_refused_total')})", "{{reason}}, at the door"),
    ),
    lines(
        "Latency of requests",
        "From the headers to the answer, bodies that come slowly included: where this grows and "
        "the parts do not, clients are slow to send.",
        "s",
        *quantiles("tlserve_request_seconds"),
    ),
)


def _parts_at(name: str) -> Panel:
    return lines(
        f"Parts of an answer, {name}",
        "Which part takes the time. Queue wait and batch wait grow with the load; decode with the "
        "size of the images; inference with the network and the batch. The parts of one quantile "
        "do not add up to the same quantile of the whole.",
        "s",
        *[
            Query(quantile(QUANTILES[name], metric), part)
            for part, metric in PARTS_OF_AN_ANSWER.items()
        ],
    )


PARTS: tuple[Panel, ...] = tuple(_parts_at(name) for name in QUANTILES)

BATCHES: tuple[Panel, ...] = (
    lines(
        "Queue wait",
        "Until an image's decoding begins. Near --max-wait (5 s) the service refuses.",
        "s",
        *quantiles("tlserve_queue_wait_seconds"),
    ),
    lines(
        "Images inside",
        "Waiting: to be decoded or for their batch. Inside: those, and those being worked on.",
        "short",
        Query(f"sum(tlserve_queue_depth{{{OURS}}})", "waiting"),
        Query(f"sum(tlserve_requests_inside{{{OURS}}})", "inside"),
    ),
    lines(
        "Busy threads, by stage",
        "Share of the threads' time, over about a minute. On a CPU both stages share the "
        "processors: their sum nears 1 when it is full.",
        "percentunit",
        Query(f"max by (stage) (tlserve_busy_ratio{{{OURS}}})", "{{stage}}"),
    ),
    lines(
        "Images in a batch, mean",
        "1 with little load: an image that is alone does not wait. It grows with the load, up to "
        "--max-batch.",
        "short",
        Query(
            f"sum by (instance) ({rate('tlserve_batch_size_sum')}) "
            f"/ sum by (instance) ({rate('tlserve_batch_size_count')})",
            "{{instance}}",
        ),
    ),
    heatmap(
        "Images in a batch",
        "How many batches had how many images.",
        "short",
        buckets("tlserve_batch_size"),
    ),
    heatmap(
        "Inference of a batch",
        "Two bands are two sizes of batches, or two models.",
        "s",
        buckets("tlserve_inference_seconds"),
    ),
)

ANSWERS: tuple[Panel, ...] = (
    lines(
        "Predictions by class",
        "Share of the answers, the 20 most frequent classes. A shift is a shift of what is sent, "
        "or of the model: compare with last week.",
        "percentunit",
        Query(
            f"topk(20, sum by (class) ({rate('tlserve_predictions_total')}) / ignoring(class) "
            f"group_left sum({rate('tlserve_predictions_total')}))",
            "{{class}}",
        ),
        stacked=True,
    ),
    heatmap(
        "Confidence",
        "The probability of the most probable class. A band that sinks is often a camera, a crop "
        "or a client that was changed.",
        "percentunit",
        buckets("tlserve_confidence"),
    ),
    lines(
        "Less than half sure",
        "Share of the answers whose best class has a probability below one half.",
        "percentunit",
        Query(
            f"sum({rate('tlserve_confidence_bucket', _HALF)}) "
            f"/ sum({rate('tlserve_confidence_count')})",
            "below 0.5",
        ),
    ),
)

PROCESSES: tuple[Panel, ...] = (
    lines(
        "Memory",
        "Resident, all workers of an instance together. The limit is mem_limit in compose.yaml: "
        "see TlserveMemoryNearlyFull.",
        "bytes",
        Query(f"sum by (instance) (process_resident_memory_bytes{{{PROCESS}}})", "{{instance}}"),
    ),
    lines(
        "Processors",
        "Seconds of processor time a second: 2 is two processors at work all the time.",
        "short",
        Query(f"sum by (instance) ({rate('process_cpu_seconds_total', JOB)})", "{{instance}}"),
    ),
    lines(
        "Workers, and their restarts",
        "Each worker is a process. A restart loses the requests on its connections: see "
        "TlserveRestarting.",
        "short",
        Query(
            f"count by (instance) (process_start_time_seconds{{{PROCESS}}})",
            "{{instance}} workers",
        ),
        Query(
            f"sum by (instance) (changes(process_start_time_seconds{{{PROCESS}}}"
            "[$__rate_interval]))",
            "{{instance}} restarts",
        ),
    ),
    lines(
        "Open files",
        "Connections, mostly; --max-connections allows 1024 of a worker.",
        "short",
        Query(f"sum by (instance) (process_open_fds{{{PROCESS}}})", "{{instance}}"),
    ),
    lines(
        "Log lines lost",
        "Lines that could not be written: a full disk, mostly. Requests are answered all the same.",
        "short",
        Query(
            f"sum by (instance) (increase(tlserve_log_lines_lost_total{{{OURS}}}"
            "[$__rate_interval]))",
            "{{instance}}",
        ),
    ),
)

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": OVERVIEW,
    "Traffic": TRAFFIC,
    "Where the time goes": PARTS,
    "Queue and batches": BATCHES,
    "Answers": ANSWERS,
    "Processes": PROCESSES,
}
