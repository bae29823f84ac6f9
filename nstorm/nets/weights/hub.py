"""Where weights come from: a path, or a file of the Hugging Face hub."""

import os
import re
from pathlib import Path

DEFAULT_FILENAME = "model.safetensors"
SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_HUB = "hf://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def locate(source: str | os.PathLike[str], revision: str | None, filename: str | None) -> tuple[Path, str]:
    """Find the file that `source` means, and say in words where it was.

    Args:
        source: a path, or a hub id `"owner/name"` or `"hf://owner/name"`. What exists as a path is one.
        revision: branch, tag or commit on the hub.
        filename: file of the repository, or of the folder where `source` is one.

    Raises:
        FileNotFoundError: if there is no such file, repository or revision.
        PermissionError: if the hub keeps the file from this user.
        ConnectionError: if the hub was not reached.
        ValueError: if a `revision` is given for a local file, or a `filename` for what is a file itself.
    """
    name = os.fspath(source)
    if name.startswith(_HUB):
        return _fetch(name.removeprefix(_HUB), revision, filename)
    path = Path(name).expanduser()
    if path.exists():
        return _local(path, revision, filename)
    if isinstance(source, str) and _HUB_ID.fullmatch(name) and path.suffix not in SUFFIXES:
        return _fetch(name, revision, filename)
    raise FileNotFoundError(
        f"there is no file {path.absolute()}, and {name!r} is not the id of a repository on the hub, which has the "
        "form 'owner/name'"
    )


def _local(path: Path, revision: str | None, filename: str | None) -> tuple[Path, str]:
    if revision is not None:
        raise ValueError(f"revision {revision!r} is for the hub, but {path} is on this machine: write {_HUB}owner/name")
    if filename is None and path.is_dir():
        raise FileNotFoundError(f"{path} is a folder: give the file in it, by its path or as filename=")
    if filename is not None:
        if not path.is_dir():
            raise ValueError(f"filename {filename!r} is for a folder or the hub, but {path} is a file already")
        path = path / filename
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
    return path, str(path)


def _fetch(repository: str, revision: str | None, filename: str | None) -> tuple[Path, str]:
    import huggingface_hub
    from huggingface_hub import errors

    file = DEFAULT_FILENAME if filename is None else filename
    if not _HUB_ID.fullmatch(repository):
        raise ValueError(
            f"{repository!r} is not the id of a repository on the hub, which has the form 'owner/name'; a file in it "
            "is given as filename="
        )
    try:
        path = huggingface_hub.hf_hub_download(repo_id=repository, filename=file, revision=revision)
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repository} on the hub is for those who were given access: ask for it on its page there, then log in "
            "with huggingface_hub.login()"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the hub has no repository {repository!r} that you may see: check the spelling, and if it is private log "
            "in with huggingface_hub.login()"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repository} on the hub has no revision {revision!r}: give a branch, a tag or a commit of it"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ConnectionError(
            f"{repository}: {file} was never fetched to this machine, and the hub cannot be reached: go online (and "
            "unset HF_HUB_OFFLINE), or give the path of a copy of the file"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repository} on the hub has no file {file!r}: pass filename={_files(repository, revision)}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise ConnectionError(
            f"{repository}: {file} could not be fetched from the hub, try again later: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return Path(path), f"{_HUB}{repository}/{file}" + (f" at {revision}" if revision else "")


def _files(repository: str, revision: str | None) -> str:
    """The files of weights that the repository has instead, for a message; it must not fail for another reason."""
    import huggingface_hub

    try:
        found = huggingface_hub.list_repo_files(repository, revision=revision)
    except Exception:
        found = []
    weights = [repr(name) for name in found if name.endswith(SUFFIXES)]
    return " or ".join(weights[:8]) if weights else "the name of one"
