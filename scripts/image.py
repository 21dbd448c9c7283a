#!/usr/bin/env python3
"""Builds the image of the Dockerfile without Docker, and checks it.

    scripts/image.py

Runs the Dockerfile's last build step in this checkout, and assembles the final stage's root folder
in target/image-root. Then checks the program and the folder, and runs the program there as the
image's user: process 1 of its own PID namespace, with the image's environment alone, and without
/proc, /dev, shell or libraries. Docker itself is not used, and the image's registry neither.

Needs root, musl-gcc (Debian's musl-tools), Rust's target for musl, file, and unshare.
"""

import ipaddress
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
ROOT = TOP / "target" / "image-root"
# The folder of the build stage that stands for this checkout.
SOURCES = Path("/src")
TARGET = f"{os.uname().machine}-unknown-linux-musl"
# The authorities for TLS.
AUTHORITIES = ROOT / "etc/ssl/certs/ca-certificates.crt"
PATIENCE = 30


def left_out(reason: str) -> None:
    print(f"image: LEFT OUT, because {reason}", file=sys.stderr)
    sys.exit(0)


def check(is_right: bool, told: object) -> None:
    if not is_right:
        sys.exit(f"image: {told}")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Returns each instruction with its arguments, comments removed and lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def copy(arguments: str) -> None:
    """Executes `COPY --from=build [--chown=UID:GID] SOURCE DESTINATION` for folders."""
    *options, source, destination = shlex.split(arguments)
    check(options.pop(0) == "--from=build", f"not from the build stage: COPY {arguments}")
    source = TOP / Path(source).relative_to(SOURCES)
    destination = ROOT / destination.lstrip("/")
    shutil.copytree(source, destination, dirs_exist_ok=True)
    owner = (0, 0)
    for option in options:
        name, value = option.split("=")
        check(name == "--chown", f"an unknown option: COPY {arguments}")
        owner = tuple(int(part) for part in value.split(":"))
    for path in [destination, *destination.rglob("*")]:
        mode = path.stat().st_mode
        os.chown(path, *owner)
        # The change of the owner removes the set-user-id bit.
        path.chmod(stat.S_IMODE(mode))


def assemble() -> dict:
    """Builds the program and the final stage's folder. Returns the stage's settings."""
    all_instructions = instructions((TOP / "Dockerfile").read_text())
    final = max(i for i, (name, _) in enumerate(all_instructions) if name == "FROM")
    check(all_instructions[final][1] == "scratch", "the final stage is not empty at first")
    # The earlier steps install packages and copy the sources, which this machine has.
    build = [arguments for name, arguments in all_instructions[:final] if name == "RUN"][-1]
    subprocess.run(["sh", "-euc", build], cwd=TOP, check=True)

    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    ROOT.chmod(0o755)
    image = {"ENV": {}}
    for name, arguments in all_instructions[final + 1:]:
        if name == "COPY":
            copy(arguments)
        elif name == "ENV":
            image["ENV"] |= dict(pair.split("=", 1) for pair in shlex.split(arguments))
        elif name in ("ENTRYPOINT", "CMD"):
            image[name] = json.loads(arguments)
        elif name in ("USER", "WORKDIR", "EXPOSE"):
            image[name] = arguments
        else:
            sys.exit(f"image: {name} is not known here")
    return image


def check_files(image: dict) -> None:
    program = ROOT / image["ENTRYPOINT"][0].lstrip("/")
    described = subprocess.run(["file", "-b", program], check=True, capture_output=True, text=True)
    is_static = "statically linked" in described.stdout or "static-pie" in described.stdout
    check(is_static and "interpreter" not in described.stdout, described.stdout.strip())
    user = int(image["USER"].split(":")[0])
    check(user != 0, "the image's user is root")
    folder = ROOT / image["WORKDIR"].lstrip("/")
    files = [path for path in ROOT.rglob("*") if not path.is_dir()]
    check(sorted(files) == sorted([program, AUTHORITIES]), f"other files than expected: {files}")
    for path in [ROOT, *ROOT.rglob("*")]:
        state = path.lstat()
        check(not state.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH),
              f"{path} has the mode {state.st_mode:o}")
        check((state.st_uid == user) == (path == folder), f"{path} belongs to {state.st_uid}")
    address, port = image["ENV"]["TRUST_AUTH_LISTEN"].rsplit(":", 1)
    check(ipaddress.ip_address(address).is_unspecified and port == image["EXPOSE"],
          "the port that the image exposes is not that of the service")
    print(f"image: {program.stat().st_size / 1e6:.1f} MB, {described.stdout.strip()[:90]}")


def in_image(image: dict, arguments: list[str], **more: str) -> list[str]:
    user, group = image["USER"].split(":")
    # `env -i` removes this script's environment.
    variables = [f"{name}={value}" for name, value in (image["ENV"] | more).items()]
    return ["env", "-i", *variables, shutil.which("unshare"), "--pid", "--fork", "--kill-child",
            f"--root={ROOT}", f"--wd={image['WORKDIR']}", "--setgid", group, "--setuid", user,
            *image["ENTRYPOINT"], *arguments]


def run(image: dict, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(in_image(image, list(arguments)), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=PATIENCE)


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def check_service(image: dict) -> None:
    # The ports of the image may be taken here.
    free = {"TRUST_AUTH_LISTEN": "127.0.0.1:0", "TRUST_AUTH_ADMIN_LISTEN": "127.0.0.1:0"}
    command = in_image(image, ["--json", *image["CMD"]], **free)
    service = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        address = "http://" + json.loads(service.stdout.readline())["serving"]["listen"]
        begun = time.monotonic()
        while status(f"{address}/readyz") != 200:
            check(time.monotonic() < begun + PATIENCE, "the service is not ready")
            time.sleep(0.05)
        check(status(f"{address}/healthz") == 200, "/healthz")
        registered = json.loads(run(image, "--json", "register", "--name", "St. Mary").stdout)
        key = registered["api_key"]
        verify = f"{address}/verify"
        check(status(verify, **{"X-Api-Key": key}) == 200, "a valid key is refused")
        check(run(image, "delete", "St. Mary").returncode == 0, "the trust is not deleted")
        check(status(verify, **{"X-Api-Key": key}) == 401, "a deleted key is granted")
        database = ROOT / image["WORKDIR"].lstrip("/") / "trust-auth.db"
        check(database.stat().st_mode & 0o777 == 0o600, "the mode of the SQLite file")
        # As `docker stop` does, to process 1 of the namespace.
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        check(len(children) == 1, f"the processes {children}")
        os.kill(int(children[0]), signal.SIGTERM)
        _, log = service.communicate(timeout=PATIENCE)
        check(service.returncode == 0, f"exit code {service.returncode} after SIGTERM: {log}")
        for line in log.splitlines():
            check(json.loads(line)["level"] != "ERROR", line)
    finally:
        service.kill()


def begins_tls(image: dict) -> bool:
    """Returns whether the program begins TLS with a server whose certificate it would verify."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        port = server.getsockname()[1]
        url = f"postgres://u@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert=system"
        command = in_image(image, ["--database", url, "list"])
        client = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE)
            # PostgreSQL's SSLRequest. Without authorities, the program sends nothing.
            begun = len(connection.recv(8)) == 8
            if begun:
                # The server has TLS. A handshake begins with 0x16.
                connection.sendall(b"S")
                begun = connection.recv(1) == b"\x16"
        client.kill()
        client.wait()
        return begun


def check_authorities(image: dict) -> None:
    check(begins_tls(image), "no TLS with the authorities of the image")
    removed = ROOT.with_name("image-authorities")
    AUTHORITIES.rename(removed)
    begun = begins_tls(image)
    removed.rename(AUTHORITIES)
    check(not begun, "TLS begins without authorities")


def main() -> None:
    if os.geteuid() != 0:
        left_out("only root can change the root folder")
    for program in ("musl-gcc", "file", "unshare"):
        if not shutil.which(program):
            left_out(f"there is no {program}")
    added = subprocess.run(["rustup", "target", "add", TARGET], capture_output=True)
    if added.returncode != 0:
        left_out(f"rustup cannot install the target {TARGET}")
    image = assemble()
    check_files(image)
    check_service(image)
    check_authorities(image)
    print("image: ok")


if __name__ == "__main__":
    main()
