"""`python -m benchmarks`: every benchmark, or one of them."""

import click

from benchmarks.loop import loop
from benchmarks.prices import prices
from benchmarks.queue import queue
from benchmarks.workers import workers


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measure this server on fresh data, which is thrown away; without a command, everything."""
    if context.invoked_subcommand is None:
        context.invoke(prices)
        context.invoke(loop)
        context.invoke(queue)
        context.invoke(workers)


main.add_command(loop)
main.add_command(prices)
main.add_command(queue)
main.add_command(workers)

if __name__ == "__main__":
    main()
