"""The command that serves the simulator."""

from __future__ import annotations

from typing import Any

import click

import batchrun


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port. Default: any free port."
)
@click.option("--rpm", type=click.IntRange(min=1), help="Limit on requests per minute.")
@click.option("--tpm", type=click.IntRange(min=1), help="Limit on tokens per minute.")
@click.option(
    "--latency-ms",
    type=click.FloatRange(min=0),
    default=50.0,
    show_default=True,
    help="Time until a response, in milliseconds.",
)
@click.option(
    "--error-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of 5xx responses, from 0 to 1.",
)
@click.option(
    "--rate-limit-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of 429 responses, from 0 to 1.",
)
@click.option(
    "--stream-error-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of broken streams, from 0 to 1.",
)
@click.option(
    "--invalid-json-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of structured answers that do not satisfy their schema, from 0 to 1.",
)
@click.option(
    "--limit-headers/--no-limit-headers",
    default=True,
    show_default=True,
    help="Send rate-limit headers.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the answers and faults."
)
@click.option("--api-key", help="Require this API key.")
def simulate(port: int, **options: Any) -> None:  # noqa: ANN401 - as above
    """Serve the simulator on this machine.

    Serves both API formats on 127.0.0.1. Prints the base URL and runs until interrupted.

    \b
    Examples:
      batchrun simulate --port 8123
      batchrun simulate --port 8123 --rpm 600 --error-rate 0.05
    """  # noqa: D301 - as above
    config = batchrun.SimulatorConfig(
        requests_per_minute=options["rpm"],
        tokens_per_minute=options["tpm"],
        latency_ms=options["latency_ms"],
        error_rate=options["error_rate"],
        rate_limit_rate=options["rate_limit_rate"],
        stream_error_rate=options["stream_error_rate"],
        invalid_json_rate=options["invalid_json_rate"],
        limit_headers=options["limit_headers"],
        seed=options["seed"],
        api_key=options["api_key"],
    )
    batchrun.serve_simulator(config, port, announce=click.echo)
