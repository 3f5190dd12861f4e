"""The update that a schedule runs: the same safe plan, as a branch and a pull request that tells it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import RefusedError
from .places import branches_of, said
from .plan import Plan, branched, planned
from .repository import git

WORKFLOWS = ".github/workflows/"
TITLE = "Take the template's update"
LONGEST = 60_000
"""Characters that a pull request's text may have."""


def text(plan: Plan) -> str:
    """Return a plan as a page of Markdown."""
    rows = [f"| `{one.path}` | {one.kind} | {one.reason.replace('|', '/')} |" for one in plan.changes]
    levels = [str(answers.get("maturity_level", "?")) for answers in (plan.before, plan.answers)]
    moved = f", level {levels[0]} to {levels[1]}" if levels[0] != levels[1] else ""
    head = f"From {plan.old} to {plan.new} of the template{moved}. After the merge: `make setup`, `make check`."
    diffs = [f"### {one.path}\n\n```diff\n{one.diff.rstrip()}\n```\n" for one in plan.changes if one.diff]
    page = "\n".join([head, "", "| file | what | why |", "|---|---|---|", *rows, ""])
    for diff in diffs:
        if len(page) + len(diff) > LONGEST:
            return f"{page}\nThe other differences are too long for this page.\n"
        page += f"\n{diff}"
    return page


def proposed(project: Path) -> str:
    """Push the update of a project as a branch and open a pull request for it; return in a sentence what was done.

    Raises RefusedError where a person must decide (with the files), where the template or the remote cannot be reached,
    or where the pull request cannot be opened.
    """
    plan = planned(project)
    if plan.empty:
        return f"Nothing to propose: the project has {plan.old}."
    name = branches_of(project) + plan.new
    hard = plan.of("conflict", "lost")
    if hard:
        _tell(f"# The update to {plan.new} needs a person\n\n{text(plan)}")
        files = "; ".join(f"{one.path}: {one.reason}" for one in hard)
        raise RefusedError(f"A person must take the update to {plan.new} (`make update`): {files}.")
    if said(project, "ls-remote", "--heads", "origin", name):
        return f"The branch {name} is open already."
    if not said(project, "for-each-ref", f"refs/heads/{name}"):
        branched(plan, name)
    pushed(project, name, workflows=any(one.path.startswith(WORKFLOWS) for one in plan.changes))
    opened(project, name, f"{TITLE} to {plan.new}", text(plan))
    return f"Opened a pull request from {name}."


def pushed(folder: Path, name: str, *, workflows: bool = False) -> None:
    """Push a branch to origin, with the token of gh where there is one; raises RefusedError with git's reason."""
    helper = ("-c", "credential.helper=", "-c", "credential.helper=!gh auth git-credential")
    words = helper if os.environ.get("GH_TOKEN") and shutil.which("gh") else ()
    try:
        git(*words, "push", "--quiet", "origin", f"refs/heads/{name}", cwd=folder)
    except RefusedError as error:
        hint = " (it changes a workflow, for which GitHub wants a token with that right: the secret TEMPLATE_TOKEN)"
        raise RefusedError(f"The branch {name} cannot be pushed{hint if workflows else ''}: {error}.") from None


def opened(project: Path, name: str, title: str, body: str) -> None:
    """Open a pull request for a pushed branch with gh; raises RefusedError where that cannot be done."""
    tool = shutil.which("gh")
    if tool is None:
        raise RefusedError(f"The branch {name} is pushed; gh is not on this machine, so open the pull request by hand.")
    words = [tool, "pr", "create", "--head", name, "--title", title, "--body-file", "-"]
    done = subprocess.run(words, cwd=project, input=body, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RefusedError(f"The branch {name} is pushed, but no pull request was opened: {reason}.")


def _tell(page: str) -> None:
    """Show a page in the summary of the job, where there is one."""
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(page)
