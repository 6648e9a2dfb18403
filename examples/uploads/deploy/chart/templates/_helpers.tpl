{{- /* A ConfigMap is named by what it holds: other variables are another object, and pods start anew. */ -}}
{{- define "bowline.hashed" -}}
{{- $lines := printf "%s\n" .environment -}}
{{- range $name, $value := .env -}}
{{- $lines = printf "%s%s=%s\n" $lines $name (sha256sum $value) -}}
{{- end -}}
{{- printf "%s-%s" .stem (sha256sum $lines | trunc 10) -}}
{{- end -}}
{{- /* The secret with the certificate of a host. */ -}}
{{- define "bowline.certificate" -}}
{{- $whole := printf "%s-tls" (. | replace "-" "--" | replace "." "-" | replace "*" "wildcard") -}}
{{- if gt (len $whole) 63 -}}
{{- printf "%s-%s" (regexReplaceAll "-+$" (trunc 52 $whole) "") (sha256sum $whole | trunc 10) -}}
{{- else -}}
{{- $whole -}}
{{- end -}}
{{- end -}}
