"""``adreg push``."""

from __future__ import annotations

import click

from adreg.cli.options import App, examples, json_option, pass_app, reference_argument
from adreg.cli.output import size


@click.command(
    "push",
    short_help="Put an adapter or a model on the Hugging Face Hub.",
    epilog=examples(
        "adreg push team/support@prod me/support-lora",
        "adreg push support-merged me/support --private --tag v1",
        "adreg push team/support me/support-lora --base-model HuggingFaceTB/SmolLM2-135M",
        "adreg push team/support me/support-lora --create-pr --dry-run",
    ),
)
@reference_argument()
@click.argument("repo", metavar="OWNER/REPO")
@click.option("--private", is_flag=True, help="Make the repository private; refuse a public one.")
@click.option("--revision", metavar="BRANCH", default="main", show_default=True, help="The branch.")
@click.option("-m", "--message", metavar="TEXT", help="The commit's message.")
@click.option("--create-pr", is_flag=True, help="Offer the commit as a pull request.")
@click.option("--tag", metavar="NAME", help="Tag the commit; a tag is never moved.")
@click.option(
    "--base-model", metavar="OWNER/NAME", help="What the Hub calls the base, for the card."
)
@click.option("--license", "licence", metavar="ID", help="The licence, instead of what is known.")
@click.option(
    "--allow-unknown-license",
    "allow_unknown",
    is_flag=True,
    help="Push though the licence is not known.",
)
@click.option("--overwrite", is_flag=True, help="Replace files there that others changed.")
@click.option("--dry-run", is_flag=True, help="Look and compare, and send nothing.")
@json_option
@pass_app
def command(
    app: App,
    *,
    reference: str,
    repo: str,
    private: bool,
    revision: str,
    message: str | None,
    create_pr: bool,
    tag: str | None,
    base_model: str | None,
    licence: str | None,
    allow_unknown: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Put a version on the Hub in one commit; the same again makes none.

    An adapter is pushed as it is stored, a model as the release that `adreg export` makes.
    Other files there stay. README.md there is kept: only its metadata and the section of
    adreg are renewed. A change of somebody else's is shown, never written over.

    The token is HF_TOKEN or what `hf auth login` stored; HF_ENDPOINT names another Hub.
    """
    app.stopped = "stopped; no commit was made that is not on the Hub already, and what was"
    app.stopped += " uploaded is not sent again"
    done = app.registry.push(
        reference,
        repo,
        private=private,
        revision=revision,
        message=message,
        create_pr=create_pr,
        tag=tag,
        base_model=base_model,
        licence=licence,
        allow_unknown_licence=allow_unknown,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    for remark in done.remarks:
        app.output.remark(remark)
    if app.json:
        app.output.json(done)
        return
    place = f"{done.repo}@{done.revision}"
    if not done.new and not done.created:
        app.output.line(f"{done.reference} is at {place} already, commit {done.commit}")
    else:
        verb = "would push" if done.dry_run else "pushed"
        what = f"{len(done.sent)} of {done.files} files, {size(done.bytes)}"
        app.output.line(f"{verb} {done.reference} to {place} ({what})")
        if done.dry_run:
            for file in done.sent:
                app.output.line(f"  {file.name}  {size(file.size)}")
        else:
            app.output.line(f"commit: {done.commit}")
    if done.tag is not None and not done.dry_run:
        app.output.line(f"tag: {done.tag}")
    if (url := done.pull_request or done.url) is not None:
        app.output.line(url)
