"""Writes what a program is built from, as a CycloneDX bill of materials: python sbom.py PACKAGE TARGET FEATURES

FEATURES are cargo's flags for them, such as --no-default-features. Versions and checksums are those of Cargo.lock, so the
same commit gives the same text.
"""

import json
import subprocess
import sys
import tomllib
import uuid


def main(package, target, *features):
    command = ["cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={target}"]
    manifest = next(path for path in ("agent", "cli", "server") if named(path) == package)
    command += [f"--manifest-path={manifest}/Cargo.toml", *features]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = {entry["id"]: entry for entry in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    with open("Cargo.lock", "rb") as file:
        sums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in tomllib.load(file)["package"]}
    root = next(entry["id"] for entry in metadata["packages"] if entry["name"] == package)

    # What ends up in the program: not what only builds or tests it.
    reached, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += linked(nodes[node])

    def component(node):
        entry = packages[node]
        name, version = entry["name"], entry["version"]
        described = {
            "type": "application" if node == root else "library",
            "bom-ref": f"pkg:cargo/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:cargo/{name}@{version}",
        }
        if entry.get("license"):
            described["licenses"] = [{"expression": entry["license"].replace("/", " OR ")}]
        if sums.get((name, version)):
            described["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
        return described

    components = {node: component(node) for node in reached}
    others = sorted((described for node, described in components.items() if node != root), key=lambda one: one["bom-ref"])
    dependencies = [
        {"ref": components[node]["bom-ref"], "dependsOn": sorted({components[to]["bom-ref"] for to in linked(nodes[node])})}
        for node in sorted(reached, key=lambda node: components[node]["bom-ref"])
    ]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": components[root]},
        "components": others,
        "dependencies": dependencies,
    }
    # Of its content, so that it is the same for the same content.
    bom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True)).urn
    json.dump(bom, sys.stdout, indent=1, sort_keys=True)
    print()


def linked(node):
    normal = lambda dependency: any(kind["kind"] is None for kind in dependency["dep_kinds"])  # noqa: E731
    return [dependency["pkg"] for dependency in node["deps"] if normal(dependency)]


def named(folder):
    with open(f"{folder}/Cargo.toml", "rb") as file:
        return tomllib.load(file)["package"]["name"]


if __name__ == "__main__":
    main(*sys.argv[1:])
