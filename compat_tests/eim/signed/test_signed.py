"""Bindings by signature: programs of whoever has the private key have the class, and no others;
loaders do not know of it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.eim.probes.test_probes import GRANTS, ROUNDS, folder, loaded
from libbpf_shim import cli
from libbpf_shim.cli import signing
from libbpf_shim.eim import ed25519, signed
from libbpf_shim.eim.signed import by, file

__all__ = ["folder"]
# RFC 8032, 7.1: public key, message, signature
VECTORS = [
    ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
     "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da0"
     "85ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
]
ORDER = 2**252 + 27742317777372353535851937790883648493
DIGEST = bytes(range(32))


def new_key(path: Path) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An author's, and somebody else's."""
    at = tmp_path_factory.mktemp("keys")
    return new_key(at / "author.pem"), new_key(at / "other.pem")


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS, ids=["empty", "one byte"])
def test_signatures_are_those_of_the_standard(key: str, message: str, signature: str) -> None:
    public, said, made = map(bytes.fromhex, (key, message, signature))
    assert ed25519.is_key(public) and ed25519.verify(public, said, made)


def test_a_signature_is_of_one_message_and_one_key(keys: tuple[Path, Path]) -> None:
    """Made by openssl(1); none of 200 that differ in a bit, in length or in the message holds."""
    author, other = (signing.public(key) for key in keys)
    made = signing.signature(keys[0], DIGEST)
    said = signed.message(DIGEST)
    assert ed25519.verify(author, said, made) and not ed25519.verify(other, said, made)
    rng = random.Random(1)
    for _ in range(60):
        for data in (made, said, author):
            at = rng.randrange(8 * len(data))
            bad = bytearray(data)
            bad[at // 8] ^= 1 << at % 8
            row = [bytes(bad) if one is data else one for one in (author, said, made)]
            assert not ed25519.verify(*row), at
    for bad_signature in (made[:-1], made + b"\0", b"", bytes(64)):
        assert not ed25519.verify(author, said, bad_signature)
    s = int.from_bytes(made[32:], "little") + ORDER  # the same number, written otherwise
    assert not ed25519.verify(author, said, made[:32] + s.to_bytes(32, "little"))


def test_keys_for_which_anybody_could_sign_are_none() -> None:
    small = ["01" + 31 * "00", 32 * "00", "ec" + 30 * "ff" + "7f", "00" * 31 + "80",
             "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"]
    for text in small:
        assert not ed25519.is_key(bytes.fromhex(text)), text
    for data in (b"", bytes(31), b"\xed" + b"\xff" * 30 + b"\x7f", b"\x02" + bytes(31)):
        assert not ed25519.is_key(data)  # too short, y beyond the field, no point


def _other_program(path: Path, line: bytes) -> None:
    path.write_bytes(b"00" * 64 + b"\n" + line[:-2] + b"\n")


def _pipe(path: Path, line: bytes) -> None:
    os.mkfifo(path)


def _link(path: Path, line: bytes) -> None:
    path.with_suffix(".real").write_bytes(line)
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize(("write", "good"), [
    (lambda path, line: path.write_bytes(line + b"\n"), True),
    (lambda path, line: path.write_bytes(b"# by hand\n" + b"ab" * 64 + b"\n" + line), True),
    (lambda path, line: path.write_bytes(b"ab" * 64 + b"\n" + b"x\n" * 20 + line), False),
    (lambda path, line: path.write_bytes(b"\0" * 5000 + b"\n" + line), False),
    (lambda path, line: path.with_name(f"{'0' * 64}.sig").write_bytes(line), False),
    (_other_program, False), (_pipe, False), (_link, False),
    (lambda path, line: path.mkdir(), False), (lambda path, line: None, False),
], ids=["it", "among others", "too many", "far behind", "another program's", "cut", "a pipe",
        "a link", "a folder", "none"])
def test_what_is_read_of_the_folder(
    keys: tuple[Path, Path], tmp_path: Path, write: Callable[[Path, bytes], None], good: bool
) -> None:
    line = signing.signature(keys[0], DIGEST).hex().encode()
    write(file(tmp_path, DIGEST), line)
    key = signing.public(keys[0]).hex()
    assert by(key, tmp_path, DIGEST) == good
    assert not by(signing.public(keys[1]).hex(), tmp_path, DIGEST)


def test_an_unmodified_loaders_program_has_the_class_that_its_signature_gives(
    folder: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    author, other = keys
    assert cli.main(["policy", "key", str(author)]) == 0
    key = capsys.readouterr().out.strip()
    classes = GRANTS.partition("bindings:")[0] + \
        f"signatures: signed\nbindings: [{{class: numbers, signature: {key}}}]\n"
    at = folder / "signed"
    sign = ["policy", "sign", f"{folder}/ext.bpf.o", "--out", str(at), "--prog"]
    for program, by_key in (("on_read", other), ("on_code", author)):
        assert cli.main([*sign, program, "--key", str(by_key)]) == 0
    at.chmod(0o755)
    done = loaded(folder, "on_read", "handled", classes=classes)
    assert done.status == 1 and "bound to no class" in done.err, done
    assert cli.main([*sign, "on_read", "--key", str(author)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("on_read ")
    done = loaded(folder, "on_read", "handled", classes=classes)
    assert (done.status, done.out.split()[1]) == (0, str(ROUNDS)), done
    assert cli.main([*sign, "on_read", "--key", f"{folder}/ext.bpf.o"]) == 2  # no key
