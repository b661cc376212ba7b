{{- define "headrace.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "headrace.serviceAccountName" -}}
{{- default (include "headrace.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "headrace.selectorLabels" -}}
app.kubernetes.io/name: headrace-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Neither a label nor an image's tag has the + before a build's name. */}}
{{- define "headrace.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 -}}
{{- end -}}

{{- define "headrace.labels" -}}
{{ include "headrace.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "headrace.chart" . }}
{{- end -}}

{{- define "headrace.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default (replace "+" "_" .version) .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do where it watches; docs/operator-rights.md says why, line by line. */}}
{{- define "headrace.rules" -}}
- apiGroups: [headrace.dev]
  resources: [inferencedeployments]
  verbs: [list, watch]
- apiGroups: [headrace.dev]
  resources: [inferencedeployments/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [list, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [list, create, patch, delete]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [list, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* What the restricted Pod Security Standard asks for. */}}
{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A short-lived token, the API server's certificate, and the namespace: what automounting would give for longer. */}}
{{- define "headrace.identityVolume" -}}
- name: identity
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end -}}

{{/* The namespaces of the deployments that a file of models names, as a JSON list. */}}
{{- define "headrace.modelNamespaces" -}}
{{- $found := list -}}
{{- range .models -}}
{{- if .deployment -}}
{{- $found = append $found (splitList "/" .deployment | first) -}}
{{- end -}}
{{- end -}}
{{- $found | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* NetworkPolicy peers: the routers that ask the replicas of a namespace, as a JSON list. */}}
{{- define "headrace.routersOf" -}}
{{- $asked := .namespace -}}
{{- $peers := list (dict "podSelector" (dict "matchLabels" (dict "app.kubernetes.io/name" "headrace-router"))) -}}
{{- range $group, $told := .modelRouters -}}
{{- if and (ne $told.namespace $asked) (has $asked (include "headrace.modelNamespaces" $told.config | fromJsonArray)) -}}
{{- $there := dict "matchLabels" (dict "kubernetes.io/metadata.name" $told.namespace) -}}
{{- $them := dict "matchLabels" (dict "app.kubernetes.io/name" "headrace-router" "app.kubernetes.io/instance" (printf "%s-models" $group)) -}}
{{- $peers = append $peers (dict "namespaceSelector" $there "podSelector" $them) -}}
{{- end -}}
{{- end -}}
{{- $peers | toJson -}}
{{- end -}}

{{/* The file of models with who signs for each model's replicas, in a file beside it. Refuses what is given half. */}}
{{- define "headrace.modelsFile" -}}
{{- $told := .told -}}
{{- $at := .at -}}
{{- $config := deepCopy $told.config -}}
{{- $authorities := default dict $told.replicaTls -}}
{{- range $model, $_ := $authorities -}}
{{- if not (hasKey $config.models $model) -}}
{{- fail (printf "%s.replicaTls names %q; must be one of %s" $at $model (keys $config.models | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- range $model, $listed := $config.models -}}
{{- $of := printf "%s.config.models.%s" $at $model -}}
{{- if $listed.replicaCa -}}
{{- fail (printf "%s.replicaCa is a file that the routers do not have; name the Secret that holds it in %s.replicaTls.%s" $of $at $model) -}}
{{- end -}}
{{- if hasKey $authorities $model -}}
{{- if and $listed.replicas (not $listed.replicaName) -}}
{{- fail (printf "%s.replicaName is missing; must be the DNS name in the certificates of its replicas" $of) -}}
{{- end -}}
{{- $_ := set $listed "replicaCa" (printf "replicas/%s.crt" $model) -}}
{{- else if $listed.replicaName -}}
{{- fail (printf "%s.replicaName is for replicas that speak TLS; name the Secret of who signs for them in %s.replicaTls.%s" $of $at $model) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Refuses what names a model that the same file does not have: a schema cannot say it. */}}
{{- define "headrace.checkModels" -}}
{{- $known := keys .config.models | sortAlpha -}}
{{- $named := dict "default" .config.default -}}
{{- with .config.fallback -}}
{{- $_ := set $named "fallback.from" .from -}}
{{- $_ := set $named "fallback.to" .to -}}
{{- end -}}
{{- range $number, $rule := .config.rules -}}
{{- $_ := set $named (printf "rules[%d].model" $number) $rule.model -}}
{{- end -}}
{{- $at := .at -}}
{{- range $field, $model := $named -}}
{{- if not (has $model $known) -}}
{{- fail (printf "%s.%s is %q; must be one of %s" $at $field $model (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
