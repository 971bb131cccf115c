"""Folders at URLs: a run works in a staging folder on this machine, which is copied to the URL after every checkpoint.

No other module knows of URLs: they get the path of the staging folder, call `upload` when files are complete and
`fetch` where others may have written, and name it in sentences, where the URL is put in its place. Each worker of a
cluster has a staging folder, with the files of its tasks.
"""

import atexit
import contextlib
import pathlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from rljax.errors import UsageError
from rljax.report import console

_OWNER = "writer.txt"  # names the process that may write: the last one that began
_OWN = re.compile(rf"\.part$|\.orbax-checkpoint-tmp|^locks/|^{re.escape(_OWNER)}$")  # files that stay here
_HINTS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # packages of the extra `remote`


def is_url(given: Any) -> bool:
    """True for text such as "s3://bucket/x"; not for "file://", which is a path."""
    return isinstance(given, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", given) is not None


Wanted = Callable[[str], bool]  # of a file's name, such as "checkpoints/0000/000001/about/metadata"


class Remote:
    """A staging folder and its URL."""

    def __init__(self, url: str, local: pathlib.Path) -> None:
        self.url, self.local, self.is_writing, self.is_complete = url, local, False, True
        self.token = secrets.token_hex(8)
        self._known: dict[str, tuple[int, int] | None] = {}  # what the URL has: size and time of the local file
        self._made: set[str] = set()  # folders at the URL
        with self._errors("used"):
            self._files, self._root = _opened(url)

    def fetch(self, wanted: Wanted) -> None:
        """Copy the wanted files here, and remove what was here before."""
        with self._errors("read"):
            for name in filter(wanted, _names(self.local)):
                (self.local / name).unlink()
                self._known.pop(name, None)
            for name in filter(wanted, self._listed()):
                target = self.local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{self._root}/{name}", str(target))
                self._known[name] = _state(target)

    def stand_in(self) -> None:
        """Make an empty file for each one at the URL, so that an earlier run is seen, and can be replaced."""
        with self._errors("read"):
            for name in self._listed():
                target = self.local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
                self._known[name] = _state(target)

    def join(self) -> None:
        """Write for the process that writes."""
        with self._errors("read"):
            self.token = self._files.cat_file(f"{self._root}/{_OWNER}").decode()
        (self.local / _OWNER).write_text(self.token, encoding="utf-8")

    def begin(self) -> None:
        """Become the process that writes."""
        self.is_writing = True
        with self._errors("written"):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/{_OWNER}", self.token.encode())

    def upload(self) -> None:
        """Copy what is new, then remove what is gone, so that the URL has a whole checkpoint at any time.

        Raises:
            UsageError: the URL cannot be written, or another process has begun to write there.
        """
        self.is_complete = False
        with self._errors("written"):
            if self._files.cat_file(f"{self._root}/{_OWNER}").decode() != self.token:
                raise UsageError(f"Another process writes to {self.url}: this one writes nothing more there.")
            found = {name: _state(self.local / name) for name in _names(self.local)}
            for name, state in found.items():
                if state is not None and self._known.get(name) != state:
                    self._put(name)
                    self._known[name] = state
            for name in self._known.keys() - found.keys():
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(f"{self._root}/{name}")
                del self._known[name]
        self.is_complete = True

    def _put(self, name: str) -> None:
        target = f"{self._root}/{name}"
        parent = target.rpartition("/")[0]
        if parent not in self._made:
            self._files.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        self._files.put_file(str(self.local / name), target)

    def _listed(self) -> list[str]:
        self._files.invalidate_cache()
        found = self._files.find(self._root)
        names = [path.removeprefix(self._root).lstrip("/") for path in found]
        return [name for name in names if name and name != _OWNER]

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except ImportError:
            scheme = self.url.partition(":")[0]
            package = _HINTS.get(scheme, f"fsspec's package for {scheme}")
            raise UsageError(f"{scheme}:// needs {package}: pip install 'rljax-engine[remote]'.") from None
        except Exception as error:  # of any storage
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"{self.url} cannot be {what} ({lines[0][:200].rstrip('.')}): check the address and the credentials."
            ) from error


_staged: dict[pathlib.Path, Remote] = {}
_urls: dict[pathlib.Path, str] = {}  # of all staging folders there were


def upload(folder: pathlib.Path | None) -> None:
    """Copy a staging folder to its URL; other folders are left alone.

    Raises:
        UsageError: the URL cannot be written.
    """
    if folder in _staged:
        _staged[folder].upload()


def is_staged(folder: pathlib.Path | None) -> bool:
    """True if this is the staging folder of a URL."""
    return folder in _staged


def fetch(folder: pathlib.Path, wanted: Wanted) -> None:
    """Copy the wanted files from the URL to its staging folder; other folders are left alone."""
    if folder in _staged:
        _staged[folder].fetch(wanted)


def place_of(folder: pathlib.Path) -> str:
    """The URL of a staging folder; the absolute path of another one."""
    return named(folder.absolute())


def named(folder: pathlib.Path) -> str:
    """The URL of a staging folder; the path of another one."""
    return _urls.get(folder) or str(folder)


def token_of(folder: pathlib.Path) -> tuple[str, str] | None:
    """The name and the text of a file at the URL of a staging folder, by which others recognize it."""
    return (_OWNER, _staged[folder].token) if folder in _staged else None


def joined(place: str) -> pathlib.Path:
    """The folder in which a cluster's worker writes for the driver, given its `place_of` there."""
    if not is_url(place):
        return pathlib.Path(place)
    known = next((folder for folder, url in _urls.items() if url == place and folder in _staged), None)
    if known is None:
        known = pathlib.Path(tempfile.mkdtemp(prefix="rljax-"))
        atexit.register(shutil.rmtree, known, ignore_errors=True)
        _staged[known], _urls[known] = Remote(place, known), place
    _staged[known].join()
    return known


@contextlib.contextmanager
def reopened(folder: pathlib.Path, wanted: Wanted) -> Iterator[pathlib.Path]:
    """A folder to read from after the run: that of a URL is fetched again, as far as wanted."""
    with staged(_urls.get(folder, folder), wanted=wanted, writes=False) as found:
        yield found


def wanted_by(cluster: str | None) -> Wanted:
    """The files that a run needs to be resumed: on a cluster the workers fetch those of their tasks."""
    return everything if cluster is None else small_files


def everything(name: str) -> bool:
    """Every file is wanted."""
    return True


def small_files(name: str) -> bool:
    """Those files are wanted that do not grow with the number of updates or of parameters."""
    return not name.startswith(("checkpoints/", "metrics/"))


@contextlib.contextmanager
def staged(given: Any, *, is_new: bool = False, writes: bool = True, wanted: Wanted = everything) -> Iterator[Any]:
    """The folder to work in, for a URL a staging folder that has its files; anything else is returned as it is.

    Args:
        given: a URL or a path.
        is_new: a new run begins, so that the files at the URL only stand in for themselves.
        writes: this process writes to the URL.
        wanted: which files are fetched.
    """
    if isinstance(given, str) and given.startswith("file://"):
        given = given.removeprefix("file://")
    if not is_url(given):
        yield given
        return
    local = pathlib.Path(tempfile.mkdtemp(prefix="rljax-"))
    remote = None
    try:
        remote = Remote(given.rstrip("/"), local)
        if is_new:
            remote.stand_in()
        else:
            remote.fetch(wanted)
        _urls[local] = remote.url
        if writes:
            _staged[local] = remote
        with console.naming(str(local), remote.url), _naming_errors(str(local), remote.url):
            yield local
            if remote.is_writing:
                _or_say(remote.upload)  # what the loggers wrote at the end
    except BaseException as error:
        if remote is not None and remote.is_writing and not isinstance(error, GeneratorExit):
            with contextlib.suppress(UsageError):
                remote.upload()
            if not remote.is_complete:
                error.add_note(f"What {remote.url} lacks is in {local}.")
        raise
    finally:
        _staged.pop(local, None)
        if remote is None or remote.is_complete:
            shutil.rmtree(local, ignore_errors=True)


def begin(folder: pathlib.Path | None) -> None:
    """Begin to write to the URL of a staging folder.

    Raises:
        UsageError: it cannot be written.
    """
    if folder in _staged:
        _staged[folder].begin()


def _or_say(write: Callable[[], None]) -> None:
    try:
        write()
    except UsageError as error:
        console.say(str(error))


@contextlib.contextmanager
def _naming_errors(text: str, name: str) -> Iterator[None]:
    """Replace a text by a name in errors."""
    try:
        yield
    except BaseException as error:
        error.args = tuple(one.replace(text, name) if isinstance(one, str) else one for one in error.args)
        if hasattr(error, "__notes__"):
            error.__notes__ = [note.replace(text, name) for note in error.__notes__]
        raise


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    scheme = url.partition(":")[0]
    if scheme not in fsspec.available_protocols():
        raise UsageError(f"{url} has an unknown scheme: use a path, or s3://, gs:// or another one of fsspec's.")
    files, root = fsspec.core.url_to_fs(url)
    return files, root.rstrip("/")


def _names(folder: pathlib.Path) -> list[str]:
    """The complete files in a folder: those of checkpoints last, since the manifest describes them."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted((name for name in found if not _OWN.search(name)), key=lambda name: (name.count("/"), name))


def _state(path: pathlib.Path) -> tuple[int, int] | None:
    """The size and time of change of a file; None if it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
