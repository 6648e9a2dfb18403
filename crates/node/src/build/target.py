# Finds application objects in Python files by reading them; nothing of them is run.
# Arguments: files below the working directory. Prints one JSON object per file, in order.
import ast
import json
import sys

WSGI = {
    "flask.Flask", "bottle.Bottle", "bottle.default_app", "falcon.App", "falcon.API", "connexion.FlaskApp",
    "django.core.wsgi.get_wsgi_application", "pyramid.config.Configurator.make_wsgi_app", "dash.Dash.server",
    "eve.Eve", "flask_openapi3.OpenAPI", "apiflask.APIFlask", "webob.dec.wsgify", "morepath.App", "hug.API",
}
ASGI = {
    "fastapi.FastAPI", "starlette.applications.Starlette", "quart.Quart", "litestar.Litestar", "sanic.Sanic",
    "falcon.asgi.App", "django.core.asgi.get_asgi_application", "blacksheep.Application",
}
FACTORIES = ("create_app", "make_app", "create_application", "make_application", "app_factory")


def dotted(node):
    """a.b.c of an expression, or None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Call):
        inner = dotted(node.func)
        return ".".join([inner] + parts[::-1]) if inner else None
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id] + parts[::-1])


def is_main_guard(node):
    return isinstance(node, ast.If) and "__main__" in {
        n.value for n in ast.walk(node.test) if isinstance(n, ast.Constant)
    }


def statements(body):
    """Those that run when the module is imported, in order."""
    for node in body:
        if is_main_guard(node):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                yield from statements(getattr(node, part, []))


def resolve(name, names):
    first, _, rest = name.partition(".")
    first = names.get(first, first)
    return first + "." + rest if rest else first


def look(path):
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    names, kinds, found = {}, {}, []
    for node in statements(tree.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = "." * node.level + (node.module or "") + "." + alias.name
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                name = dotted(base)
                if name and resolve(name, names) in WSGI | ASGI:
                    names[node.name] = resolve(name, names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args.posonlyargs + node.args.args
            required = len(arguments) - len(node.args.defaults)
            required += sum(d is None for d in node.args.kw_defaults)
            if node.name in FACTORIES and required == 0 and isinstance(node, ast.FunctionDef):
                found.append({"name": node.name, "factory": True, "kind": factory_kind(node, names), "by": "factory"})
            elif [a.arg for a in arguments] == ["environ", "start_response"]:
                found.append({"name": node.name, "factory": False, "kind": "wsgi", "by": "function"})
            elif [a.arg for a in arguments] == ["scope", "receive", "send"]:
                found.append({"name": node.name, "factory": False, "kind": "asgi", "by": "function"})
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            kind, by = kind_of(node.value, names, kinds)
            for target in targets:
                if kind and isinstance(target, ast.Name):
                    kinds[target.id] = (kind, by)
                    found.append({"name": target.id, "factory": False, "kind": kind, "by": by})
    return found


def factory_kind(function, names):
    """What a factory makes, by the names it uses."""
    inner = dict(names)
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner[alias.asname or alias.name] = (node.module or "") + "." + alias.name
    for node in ast.walk(function):
        name = dotted(node.func) if isinstance(node, ast.Call) else None
        if name and resolve(name, inner) in ASGI:
            return "asgi"
    return "wsgi"


def kind_of(value, names, kinds):
    if isinstance(value, ast.Name):
        return kinds.get(value.id, (None, None))
    if isinstance(value, ast.Attribute):
        # `server = dash_app.server`: the Flask application inside.
        inner = kinds.get(dotted(value.value) or "", (None, None))
        return ("wsgi", inner[1]) if value.attr in ("server", "wsgi_app") and inner[0] else (None, None)
    if not isinstance(value, ast.Call):
        return None, None
    name = dotted(value.func)
    if not name:
        return None, None
    full = resolve(name, names)
    if full in WSGI:
        return "wsgi", full
    if full in ASGI:
        return "asgi", full
    last = full.rsplit(".", 1)[-1]
    if last == "make_wsgi_app":
        return "wsgi", full
    if last == "Dash" and full.startswith("dash"):
        return "dash", full
    if last in FACTORIES:
        return "wsgi", full
    return None, None


for path in sys.argv[1:]:
    try:
        answer = {"path": path, "found": look(path)}
    except SyntaxError as error:
        answer = {"path": path, "error": "line %s: %s" % (error.lineno, error.msg)}
    except (OSError, ValueError, RecursionError) as error:
        answer = {"path": path, "error": str(error)}
    print(json.dumps(answer))
