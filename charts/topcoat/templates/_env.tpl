{{- /* The operator's settings, as environment variables. */ -}}
{{- define "topcoat.env" -}}
- name: TOPCOAT_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: TOPCOAT_POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: TOPCOAT_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: TOPCOAT_TRAINER_IMAGE
  value: {{ include "topcoat.image" (dict "image" .Values.trainerImage "registry" .Values.image.registry "context" .) }}
- name: TOPCOAT_IMAGE_PULL_POLICY
  value: {{ include "topcoat.pullPolicy" (dict "image" .Values.trainerImage "registry" .Values.image.registry) }}
- name: TOPCOAT_IMAGE_PULL_SECRETS
  value: {{ range $index, $secret := .Values.imagePullSecrets }}{{ if $index }},{{ end }}{{ $secret.name }}{{ else }}""{{ end }}
- name: TOPCOAT_WORKERS
  value: {{ .Values.workers | quote }}
- name: TOPCOAT_LEASE_NAME
  value: {{ include "topcoat.leaseName" . }}
- name: TOPCOAT_LEASE_SECONDS
  value: {{ .Values.lease.seconds | quote }}
- name: TOPCOAT_RESYNC_SECONDS
  value: {{ .Values.resyncSeconds | quote }}
- name: TOPCOAT_HTTP_PORT
  value: "8080"
- name: TOPCOAT_PROGRESS_PORT
  value: "8082"
- name: TOPCOAT_PROGRESS_URL
  {{- if .Values.progress.enabled }}
  value: http://{{ include "topcoat.progressName" . }}.{{ .Release.Namespace }}.svc:8082
  {{- else }}
  value: ""
  {{- end }}
- name: TOPCOAT_PROGRESS_AUDIENCE
  value: {{ include "topcoat.progressName" . }}
- name: TOPCOAT_LOG_LEVEL
  value: {{ .Values.log.level }}
- name: TOPCOAT_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- $seen := dict }}
{{- range .Values.extraEnv }}
{{- if hasPrefix "TOPCOAT_" .name }}{{ fail (printf "extraEnv: %s belongs to the chart; the values have a key for it" .name) }}{{ end }}
{{- if hasKey $seen .name }}{{ fail (printf "extraEnv: %s is there twice" .name) }}{{ end }}
{{- $_ := set $seen .name true }}
- {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
