"""Dovecot, an IMAP server, on loopback: its own configuration, one mailbox, no privileges."""

import contextlib
import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from imaplib import IMAP4
from pathlib import Path

from .certificate import certify
from .emulate import free_port

INSTALL = "install it with `apt-get install dovecot-imapd` (Debian and Ubuntu), then run this again"
VERSION = "2.3."
"""The configuration below is not that of Dovecot 2.4."""

USER, PASSWORD = "ann", "emulated password"
PATIENCE = 20.0

CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/dovecot.log
listen = 127.0.0.1
protocols = imap
ssl = yes
ssl_cert = <{folder}/certificate.pem
ssl_key = <{folder}/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_location = maildir:{folder}/mail
# Somebody who waits is told of new mail at once.
mailbox_idle_check_interval = 1s
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/passwords
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}
}}
"""


class Dovecot:
    """Where it listens, and its mailbox from the inside. It runs as somebody who is not root."""

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.port, self.tls_port = free_port(), free_port()
        certificate = certify()
        self.authority = certificate.authority
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        configuration = CONFIGURATION.format(
            folder=folder,
            port=self.port,
            tls_port=self.tls_port,
            user=self._account.pw_name,
            group=grp.getgrgid(self._account.pw_gid).gr_name,
            uid=self._account.pw_uid,
            gid=self._account.pw_gid,
        )
        (folder / "dovecot.conf").write_text(configuration)
        (folder / "passwords").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        (folder / "certificate.pem").write_text(certificate.certificate)
        (folder / "key.pem").write_text(certificate.key)
        for name in ("output", "dovecot.log"):
            (folder / name).touch()
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def start(self) -> None:
        become = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["dovecot", "-F", "-c", self._folder / "dovecot.conf"],
                cwd=self._folder,
                env={"PATH": _path()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **become if os.geteuid() == 0 else {},
            )
        deadline = time.monotonic() + PATIENCE
        while not self._listens():
            said = [(self._folder / name).read_text() for name in ("output", "dovecot.log")]
            assert self._process.poll() is None, f"it ended: {said}"
            assert time.monotonic() < deadline, f"it does not listen: {said}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it, and every session with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False

    @contextlib.contextmanager
    def session(self) -> Iterator[IMAP4]:
        """A session of the mailbox's owner."""
        with IMAP4(self.host, self.port, timeout=PATIENCE) as imap:
            imap.login(USER, PASSWORD)
            yield imap

    def create(self, folder: str) -> None:
        with self.session() as imap:
            status, said = imap.create(_quoted(folder))
            assert status == "OK", said

    def put(self, message: bytes, folder: str = "INBOX") -> None:
        with self.session() as imap:
            status, said = imap.append(_quoted(folder), "", None, message)
            assert status == "OK", said

    def uidvalidity(self, folder: str = "INBOX") -> int:
        with self.session() as imap:
            imap.select(_quoted(folder), readonly=True)
            [value] = imap.response("UIDVALIDITY")[1]
            assert isinstance(value, bytes)
            return int(value)

    def looked_at(self, folder: str = "INBOX") -> list[bytes]:
        """The numbers of messages that somebody has looked at."""
        with self.session() as imap:
            imap.select(_quoted(folder), readonly=True)
            [numbers] = imap.search(None, "SEEN")[1]
            return list(numbers.split())

    def replace_folder(self, folder: str) -> None:
        """Another folder of the same name: its messages are numbered anew, under another UIDVALIDITY."""
        before = self.uidvalidity(folder)
        with self.session() as imap:
            for step in (imap.delete, imap.create):
                status, said = step(_quoted(folder))
                assert status == "OK", said
        assert self.uidvalidity(folder) != before


def missing() -> str | None:
    """Why it cannot be run here, and what to do about it; None if it can."""
    command = shutil.which("dovecot", path=_path())
    if command is None:
        return f"Dovecot is not installed: {INSTALL}"
    version = subprocess.check_output([command, "--version"], text=True).strip()
    if version.startswith(VERSION):
        return None
    return f"Dovecot {version} is installed, but the configuration here is for {VERSION}x"


@contextlib.contextmanager
def dovecot() -> Iterator[Dovecot]:
    """Runs it over an empty mailbox."""
    # Not in pytest's folder: that is its owner's alone, and too deep for the names of sockets.
    with tempfile.TemporaryDirectory(prefix="dovecot-") as folder:
        server = Dovecot(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _quoted(folder: str) -> str:
    return f'"{folder}"'


def _path() -> str:
    """Daemons are in folders that not everybody's PATH has."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
